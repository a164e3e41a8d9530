// quipu doctor: what this machine offers, and what quipu makes of it.
#include <sys/mman.h>

#include "base/huge_pages.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/config_file.h"
#include "cli/flags.h"

namespace quipu {
namespace {

struct DoctorFlags {
  OutputOptions output;
  int threads = 0;
  std::optional<std::string> isa;
};

std::string first_line_of(const std::filesystem::path& path) {
  const Result<std::string> text = read_file(path, 4096);
  return text.ok() ? text->substr(0, text->find('\n')) : "not readable";
}

std::optional<Isa> requested_isa(const CpuFeatures& features, const std::string& name) {
  for (const Isa isa : features.usable) {
    if (isa_name(isa) == name) return isa;
  }
  return std::nullopt;
}

int doctor_command(const DoctorFlags& flags) {
  const CpuFeatures features = detect_cpu_features();
  std::optional<Isa> isa;
  if (flags.isa.has_value()) {
    isa = requested_isa(features, *flags.isa);
    if (!isa.has_value())
      return report_error(
          make_error(ErrorCode::kInvalidArgument, "--isa: '{}' is not usable here", *flags.isa));
  }
  const Result<std::unique_ptr<Backend>> backend =
      make_cpu_backend({.threads = flags.threads, .isa = isa});
  if (!backend.ok()) return report_error(backend.status());
  const int threads = flags.threads > 0 ? flags.threads : features.logical_cpus;
  const double bandwidth = ReadMeter(threads).read(0.5);
  const Isa used = isa.value_or(features.usable.back());
  const CpuPeaks peaks = measure_cpu_peaks(used, threads, 0.3);

  nlohmann::ordered_json usable = nlohmann::ordered_json::array();
  for (const Isa each : features.usable) usable.push_back(isa_name(each));
  nlohmann::ordered_json config_files = nlohmann::ordered_json::array();
  std::vector<std::filesystem::path> config_paths;
  if (const auto user = user_config_path()) config_paths.push_back(*user);
  config_paths.push_back(system_config_path());
  for (const std::filesystem::path& path : config_paths) {
    std::error_code ignored;
    config_files.push_back(
        {{"path", path.string()}, {"exists", std::filesystem::exists(path, ignored)}});
  }
  const std::string huge_pages = first_line_of("/sys/kernel/mm/transparent_hugepage/enabled");
  if (flags.output.json) {
    print_json({{"version", QUIPU_VERSION},
                {"cpu",
                 {{"model", features.model_name},
                  {"logical_cpus", features.logical_cpus},
                  {"avx2", features.avx2},
                  {"avx512", features.avx512},
                  {"avx512_vnni", features.avx512_vnni},
                  {"avx512_bf16", features.avx512_bf16}}},
                {"instruction_sets", usable},
                {"backend", (*backend)->description()},
                {"threads", threads},
                {"read_bandwidth_bytes_per_s", bandwidth},
                {"int8_ops_per_s", peaks.int8_ops},
                {"bf16_flops", peaks.bf16_flops},
                {"f32_flops", peaks.f32_flops},
                {"transparent_huge_pages", huge_pages},
                {"huge_pages_work", huge_pages_work()},
                {"config_files", config_files}});
    return kExitOk;
  }
  print_out(fmt::format("quipu {}\n", QUIPU_VERSION));
  print_out(
      fmt::format("cpu               {}, {} usable\n", features.model_name, features.logical_cpus));
  print_out(fmt::format("features          avx2 {}, avx512 {}, vnni {}, bf16 {}\n", features.avx2,
                        features.avx512, features.avx512_vnni, features.avx512_bf16));
  std::string sets;
  for (const Isa each : features.usable)
    sets += (sets.empty() ? "" : ", ") + std::string(isa_name(each));
  print_out(fmt::format("instruction sets  {} (QUIPU_ISA or --isa forces one)\n", sets));
  print_out(fmt::format("backend           {}\n", (*backend)->description()));
  print_out(
      fmt::format("read bandwidth    {:.1f} GB/s with {} threads\n", bandwidth * 1e-9, threads));
  print_out(
      fmt::format("peaks             int8 {:.2f} TOP/s, bf16 {:.2f} TFLOP/s, f32 {:.2f} TFLOP/s\n",
                  peaks.int8_ops * 1e-12, peaks.bf16_flops * 1e-12, peaks.f32_flops * 1e-12));
  print_out(fmt::format("huge pages        {}; large buffers, the KV cache among them, {}\n",
                        huge_pages, huge_pages_work() ? "got one on trial" : "got none on trial"));
  for (const nlohmann::ordered_json& file : config_files) {
    print_out(fmt::format("configuration     {} ({})\n", file["path"].get<std::string>(),
                          file["exists"].get<bool>() ? "read" : "not there"));
  }
  return kExitOk;
}

}  // namespace

void add_doctor_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command =
      app.add_subcommand("doctor", "CPU features, chosen kernels, memory bandwidth, huge pages");
  command->add_option("-t,--threads", flags->threads, "Threads (default: one per core)")
      ->check(CLI::Range(0, 1024));
  command->add_option("--isa", flags->isa, "Instruction set: scalar, avx2, avx512");
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = doctor_command(*flags); });
}

}  // namespace quipu
