// quipu synth: a model of a published shape with random weights, for tests and benchmarks.
#include "app/synth_model.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/flags.h"

namespace quipu {
namespace {

struct SynthFlags {
  SynthOptions options;
  std::filesystem::path out;
  std::string type = "q8_0";
  int threads = 0;
  bool list = false;
  OutputOptions output;
};

int synth_command(SynthFlags& flags) {
  if (flags.list) {
    for (const std::string& name : synth_shape_names()) print_out(name + "\n");
    return kExitOk;
  }
  if (flags.out.empty())
    return report_error(
        make_error(ErrorCode::kInvalidArgument, "give the file to write with -o FILE"));
  const std::optional<DType> type = dtype_from_name(flags.type);
  if (!type.has_value())
    return report_error(make_error(ErrorCode::kInvalidArgument,
                                   "--type: '{}' is not a weight type; q8_0, q4_k, bf16, ...",
                                   flags.type));
  flags.options.type = *type;
  flags.options.threads = flags.threads > 0 ? flags.threads : detect_cpu_features().logical_cpus;
  const InterruptGuard interrupt;
  Status status;
  {
    ProgressLine progress(flags.output, "writing");
    flags.options.progress = [&](const WriteProgress& now) {
      progress.update(now.bytes_done, now.bytes_total);
      return !interrupt.interrupted();
    };
    status = synth_model(flags.options, flags.out);
  }
  if (!status.ok()) return report_error(status);
  std::error_code error;
  const uint64_t bytes = std::filesystem::file_size(flags.out, error);
  if (flags.output.json) {
    print_json({{"path", flags.out.string()},
                {"arch", flags.options.shape},
                {"type", flags.type},
                {"bytes", bytes}});
  } else {
    print_note(flags.output, fmt::format("{}: {} with random weights, {}, {}", flags.out.string(),
                                         flags.options.shape, flags.type, format_bytes(bytes)));
  }
  return kExitOk;
}

}  // namespace

void add_synth_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<SynthFlags>();
  CLI::App* command =
      app.add_subcommand("synth", "Write a model of a published shape with random weights");
  command
      ->add_option("--arch", flags->options.shape,
                   "The shape, such as qwen3-0.6b; --list shows all")
      ->capture_default_str();
  command->add_option("--type", flags->type, "Weight type")->capture_default_str();
  command->add_option("-o,--output", flags->out, "The GGUF file to write");
  command->add_option("--seed", flags->options.seed, "Seed of the weights")->capture_default_str();
  command->add_option("--layers", flags->options.layers, "Other number of layers");
  command->add_option("--context", flags->options.context, "Other context length");
  command->add_option("--vocab", flags->options.vocabulary, "Other vocabulary size");
  command->add_option("-t,--threads", flags->threads, "Threads (default: one per core)")
      ->check(CLI::Range(0, 1024));
  command->add_flag("--list", flags->list, "List the shapes");
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = synth_command(*flags); });
}

}  // namespace quipu
