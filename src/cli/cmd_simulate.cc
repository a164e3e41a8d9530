// quipu simulate: what a KV cache of a given size saves on a trace of requests.
#include <functional>

#include "app/line_plot.h"
#include "app/simulate.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "engine/engine.h"
#include "model/architecture.h"

namespace quipu {
namespace {

struct SimulateFlags {
  std::filesystem::path trace, model, plot, ttft_plot;
  std::vector<std::string> kv_memory = {"16GiB", "64GiB", "256GiB", "1TiB"};
  std::vector<std::string> policies = {"lru", "cost", "reuse"};
  double kv_bytes_per_token = 0;
  int64_t requests_max = 0;
  SimulationOptions options;
  OutputOptions output;
};

// Sizes of a model file in place of the default's (Llama 3 8B, Q8_0, bf16 keys and values).
Status describe_model(const std::filesystem::path& path, MachineModel& machine) {
  QUIPU_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> file, open_model_file(path));
  QUIPU_ASSIGN_OR_RETURN(const Architecture* architecture, find_architecture(file->metadata()));
  QUIPU_ASSIGN_OR_RETURN(const ModelConfig config, architecture->read_config(file->metadata()));
  machine.parameters = machine.weight_bytes = 0;
  for (const TensorInfo& tensor : file->tensors()) {
    machine.parameters += static_cast<double>(element_count(tensor.shape));
    machine.weight_bytes += static_cast<double>(tensor.bytes);
  }
  machine.kv_bytes_per_token = static_cast<double>(
      kv_cache_spec_for(config, KvFormat::kBF16, kDefaultBlockTokens).bytes_per_token());
  machine.attention_flops_per_token_position =
      4.0 * config.block_count * config.head_count * config.key_length;
  return Status::ok_status();
}

Result<std::vector<SimulationResult>> run_all(const SimulateFlags& flags) {
  QUIPU_ASSIGN_OR_RETURN(const std::vector<TraceRequest> trace,
                         read_trace(flags.trace, flags.requests_max));
  std::vector<SimulationResult> results;
  for (const std::string& memory : flags.kv_memory) {
    QUIPU_ASSIGN_OR_RETURN(const uint64_t bytes, parse_bytes(memory));
    const auto tokens =
        static_cast<int64_t>(static_cast<double>(bytes) / flags.options.machine.kv_bytes_per_token);
    for (const std::string& policy : flags.policies) {
      SimulationOptions options = flags.options;
      options.kv_tokens = tokens;
      options.policy = policy;
      print_note(flags.output, fmt::format("simulating {} with {} ...", memory, policy));
      QUIPU_ASSIGN_OR_RETURN(SimulationResult result, simulate(trace, options));
      results.push_back(std::move(result));
    }
    results.push_back(simulate_optimum(trace, tokens));
  }
  return results;
}

nlohmann::ordered_json result_to_json(const SimulationResult& r, double kv_bytes_per_token) {
  nlohmann::ordered_json object = {
      {"policy", r.policy},
      {"kv_tokens", r.kv_tokens},
      {"kv_bytes", static_cast<double>(r.kv_tokens) * kv_bytes_per_token},
      {"requests", r.requests},
      {"refused", r.refused},
      {"input_tokens", r.input_tokens},
      {"hit_ratio", r.hit_ratio()},
      {"reused_tokens", r.reused_tokens}};
  if (r.policy == "optimum") return object;
  object["output_tokens"] = r.output_tokens;
  object["evicted_blocks"] = r.evicted_blocks;
  object["folded_blocks"] = r.folded_blocks;
  object["preemptions"] = r.preemptions;
  object["waste"] = r.waste;
  object["ttft_s"] = {{"p50", r.ttft_p50_s}, {"p90", r.ttft_p90_s}, {"p99", r.ttft_p99_s}};
  object["output_tokens_per_s"] = r.output_tokens_per_s;
  object["simulated_s"] = r.simulated_s;
  object["wall_s"] = r.wall_s;
  return object;
}

void print_table(const std::vector<SimulationResult>& results, double kv_bytes_per_token) {
  print_out(fmt::format(
      "{:>10} {:>8} {:>8} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}\n", "memory", "policy",
      "hits", "saved", "evicted", "preempted", "ttft p50", "p90", "p99", "out/s", "wall"));
  for (const SimulationResult& r : results) {
    const auto bytes = static_cast<uint64_t>(static_cast<double>(r.kv_tokens) * kv_bytes_per_token);
    print_out(fmt::format("{:>10} {:>8} {:>7.1f}% {:>9.1f}M", format_bytes(bytes), r.policy,
                          100 * r.hit_ratio(), static_cast<double>(r.reused_tokens) * 1e-6));
    if (r.policy == "optimum") {
      print_out("\n");
      continue;
    }
    print_out(fmt::format(" {:>10} {:>9} {:>8.2f}s {:>8.2f}s {:>8.2f}s {:>8.1f} {:>7.1f}s\n",
                          r.evicted_blocks, r.preemptions, r.ttft_p50_s, r.ttft_p90_s, r.ttft_p99_s,
                          r.output_tokens_per_s, r.wall_s));
  }
}

// One line per policy over the memory. `value` of a result is the height.
Status write_plot(const SimulateFlags& flags, const std::vector<SimulationResult>& results,
                  LinePlot plot, const std::filesystem::path& path,
                  const std::vector<std::string>& policies,
                  const std::function<double(const SimulationResult&)>& value) {
  plot.x_label = "KV memory (GiB)";
  plot.log_x = true;
  for (const std::string& policy : policies) {
    PlotLine line{policy, {}};
    for (const SimulationResult& r : results) {
      if (r.policy != policy) continue;
      const double bytes =
          static_cast<double>(r.kv_tokens) * flags.options.machine.kv_bytes_per_token;
      line.points.emplace_back(bytes / static_cast<double>(kGiB), value(r));
    }
    std::ranges::sort(line.points);
    plot.lines.push_back(std::move(line));
  }
  QUIPU_ASSIGN_OR_RETURN(AtomicFileWriter file, AtomicFileWriter::create(path));
  QUIPU_RETURN_IF_ERROR(file.write(render_svg(plot)));
  return file.finish();
}

Status write_plots(const SimulateFlags& flags, const std::vector<SimulationResult>& results) {
  if (!flags.plot.empty()) {
    std::vector<std::string> policies = flags.policies;
    policies.push_back("optimum");
    QUIPU_RETURN_IF_ERROR(write_plot(flags, results,
                                     {.title = "Share of prompt tokens found in the cache",
                                      .y_label = "hit ratio",
                                      .percent_y = true},
                                     flags.plot, policies,
                                     [](const SimulationResult& r) { return r.hit_ratio(); }));
  }
  if (flags.ttft_plot.empty()) return Status::ok_status();
  return write_plot(flags, results,
                    {.title = "Time to first token, median", .y_label = "seconds"},
                    flags.ttft_plot, flags.policies,
                    [](const SimulationResult& r) { return r.ttft_p50_s; });
}

// A machine that is slower than its requests come in answers nothing about times.
void warn_if_overloaded(const SimulateFlags& flags, const std::vector<SimulationResult>& results) {
  constexpr double kLongWaitS = 60;
  for (const SimulationResult& r : results) {
    if (r.ttft_p50_s < kLongWaitS) continue;
    print_note(flags.output,
               "The machine of the cost model is slower than the trace: requests wait for minutes, "
               "and times say little. --flops and --bandwidth make it faster, --speed 0.1 the "
               "trace slower.");
    return;
  }
}

int simulate_command(SimulateFlags& flags) {
  if (!flags.model.empty()) {
    const Status described = describe_model(flags.model, flags.options.machine);
    if (!described.ok()) return report_error(described);
  }
  if (flags.kv_bytes_per_token > 0) {
    flags.options.machine.kv_bytes_per_token = flags.kv_bytes_per_token;
  }
  const Result<std::vector<SimulationResult>> results = run_all(flags);
  if (!results.ok()) return report_error(results.status());
  const double per_token = flags.options.machine.kv_bytes_per_token;
  if (flags.output.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const SimulationResult& result : *results)
      list.push_back(result_to_json(result, per_token));
    print_json(
        {{"trace", flags.trace.string()}, {"kv_bytes_per_token", per_token}, {"results", list}});
  } else {
    print_table(*results, per_token);
  }
  warn_if_overloaded(flags, *results);
  const Status written = write_plots(flags, *results);
  return written.ok() ? kExitOk : report_error(written);
}

}  // namespace

void add_simulate_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<SimulateFlags>();
  MachineModel& machine = flags->options.machine;
  CLI::App* command = app.add_subcommand(
      "simulate", "What a KV cache of a given size saves on a trace of requests");
  command
      ->add_option("TRACE", flags->trace,
                   "JSON lines: timestamp, input_length, output_length, "
                   "hash_ids of 512-token blocks; or timestamp, tokens, output_length")
      ->required();
  command->add_option("--kv-memory", flags->kv_memory, "Cache sizes to try, such as 16GiB,64GiB")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--policy", flags->policies, "Eviction policies to compare: lru, cost, reuse")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("-m,--model", flags->model,
                      "Take sizes from this model (default: Llama 3 8B, Q8_0)");
  command->add_option("--kv-bytes-per-token", flags->kv_bytes_per_token,
                      "Instead of the model's, in bf16");
  command->add_option("--flops", machine.flops, "Operations per second of products")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--bandwidth", machine.bandwidth, "Bytes per second of memory")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--batch-tokens", flags->options.batch_tokens_max, "Tokens per step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--parallel", flags->options.sequences_max, "Requests that run at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--kv-block", flags->options.block_tokens, "Tokens per KV block")
      ->check(CLI::IsMember({16, 32, 64, 128, 256}))
      ->capture_default_str();
  command
      ->add_option("--speed", flags->options.speed, "Run the trace's clock this many times as fast")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--requests", flags->requests_max, "Only the first N requests")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--plot", flags->plot, "Write the hit ratios as an SVG picture");
  command->add_option("--plot-ttft", flags->ttft_plot,
                      "Write the times to the first token as an SVG picture");
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = simulate_command(*flags); });
}

}  // namespace quipu
