// quipu quantize: any model quipu reads -> one GGUF file of another weight type.
#include "app/assemble.h"
#include "app/quantize_model.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/flags.h"

namespace quipu {
namespace {

struct QuantizeFlags {
  std::filesystem::path in, out;
  std::string type;
  std::optional<std::string> name;
  int threads = 0;
  bool force = false;
  OutputOptions output;
};

Status quantize(const QuantizeFlags& flags, const InterruptGuard& interrupt) {
  const std::optional<DType> type = dtype_from_name(flags.type);
  if (!type.has_value())
    return make_error(ErrorCode::kInvalidArgument,
                      "--type: '{}' is not a weight type; q8_0, q4_k, bf16, ...", flags.type);
  std::error_code error;
  if (std::filesystem::equivalent(flags.in, flags.out, error)) {
    return make_error(ErrorCode::kInvalidArgument, "{}: input and output are the same file",
                      flags.out.string());
  }
  if (std::filesystem::exists(flags.out, error) && !flags.force) {
    return make_error(ErrorCode::kInvalidArgument, "{}: exists already; --force replaces it",
                      flags.out.string());
  }
  QUIPU_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> file, open_model_file(flags.in));
  QuantizeOptions options;
  options.type = *type;
  options.threads = flags.threads > 0 ? flags.threads : detect_cpu_features().logical_cpus;
  QUIPU_ASSIGN_OR_RETURN(options.tokenizer_metadata, tokenizer_metadata_for(*file));
  if (flags.name.has_value()) options.tokenizer_metadata.emplace_back("general.name", *flags.name);
  ProgressLine progress(flags.output, "quantising");
  options.progress = [&](const WriteProgress& now) {
    progress.update(now.bytes_done, now.bytes_total);
    return !interrupt.interrupted();
  };
  return quantize_model(*file, flags.out, options);
}

int quantize_command(const QuantizeFlags& flags) {
  const InterruptGuard interrupt;
  const Status status = quantize(flags, interrupt);
  if (!status.ok()) return report_error(status);
  std::error_code error;
  const uint64_t bytes = std::filesystem::file_size(flags.out, error);
  if (flags.output.json) {
    print_json({{"path", flags.out.string()}, {"type", flags.type}, {"bytes", bytes}});
  } else {
    print_note(flags.output,
               fmt::format("{}: {}, {}", flags.out.string(), flags.type, format_bytes(bytes)));
  }
  return kExitOk;
}

}  // namespace

void add_quantize_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<QuantizeFlags>();
  CLI::App* command =
      app.add_subcommand("quantize", "Write a model as GGUF in another weight type");
  command->add_option("IN", flags->in, "GGUF file or Hugging Face directory")->required();
  command->add_option("OUT", flags->out, "The GGUF file to write")->required();
  command
      ->add_option("--type", flags->type,
                   "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k")
      ->required();
  command->add_option("--name", flags->name, "Set general.name");
  command->add_option("-t,--threads", flags->threads, "Threads (default: one per core)")
      ->check(CLI::Range(0, 1024));
  command->add_flag("--force", flags->force, "Replace an existing output file");
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = quantize_command(*flags); });
}

}  // namespace quipu
