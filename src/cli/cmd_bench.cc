// quipu bench: how fast this machine runs a model, next to what it could do at most.
#include "app/bench.h"
#include "app/line_plot.h"
#include "base/file.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/flags.h"

namespace quipu {
namespace {

struct BenchFlags {
  BenchOptions options;
  OutputOptions output;
  std::filesystem::path plot;
  std::vector<std::string> kv_formats = {"bf16"};
  std::vector<std::string> kv_cache = {"on"};
};

std::string_view kind_name(BenchKind kind) {
  return kind == BenchKind::kPrefill ? "prefill" : "decode";
}

Status read_lists(BenchFlags& flags) {
  flags.options.kv_formats.clear();
  for (const std::string& name : flags.kv_formats) {
    const std::optional<KvFormat> format = kv_format_from_name(name);
    if (!format) {
      return make_error(ErrorCode::kInvalidArgument,
                        "--kv-format: '{}' is not a format of keys and values, such as bf16", name);
    }
    flags.options.kv_formats.push_back(*format);
  }
  flags.options.kv_cache.clear();
  for (const std::string& text : flags.kv_cache) {
    if (text != "on" && text != "off") {
      return make_error(ErrorCode::kInvalidArgument, "--kv-cache: '{}' is not one of on, off",
                        text);
    }
    flags.options.kv_cache.push_back(text == "on");
  }
  return Status::ok_status();
}

nlohmann::ordered_json row_to_json(const BenchRow& row) {
  nlohmann::ordered_json object = {
      {"kind", kind_name(row.kind)},
      {"kv_format", kv_format_name(row.kv_format)},
      {"kv_cache", row.kv_cache ? "on" : "off"},
      {"depth", row.depth},
      {"batch", row.batch},
      {"tokens", row.tokens},
      {"cached_tokens", row.cached_tokens},
      {"tokens_per_s", row.tokens_per_s()},
      {"seconds",
       {{"median", row.seconds.median},
        {"lowest", row.seconds.lowest},
        {"highest", row.seconds.highest}}},
      {"bytes_per_s", row.bytes_per_s()},
      {"read_bandwidth_bytes_per_s", row.read_bytes_per_s},
      {"limit_tokens_per_s", static_cast<double>(row.tokens) / row.limit_seconds},
      {"share_of_limit", row.share_of_limit()},
      {"output_hash", fmt::format("{:016x}", row.hash)}};
  if (!row.token_ms.empty()) object["token_ms"] = row.token_ms;
  return object;
}

nlohmann::ordered_json report_to_json(const BenchFlags& flags, const BenchReport& report) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const BenchRow& row : report.rows) rows.push_back(row_to_json(row));
  return {{"model", report.model_name},
          {"backend", report.backend},
          {"weight_bytes", report.weight_bytes},
          {"load_ms", report.load_ms},
          {"limits",
           {{"read_bandwidth_bytes_per_s", report.limits.read_bytes_per_s},
            {"int8_ops_per_s", report.limits.int8_ops},
            {"bf16_flops", report.limits.bf16_flops},
            {"f32_flops", report.limits.f32_flops}}},
          {"prompt", flags.options.prompt},
          {"gen", flags.options.generate},
          {"shared_prefix", flags.options.shared_prefix},
          {"repeat", flags.options.repeat},
          {"rows", rows}};
}

// The row of the same setting with the cache on.
const BenchRow* with_cache(const BenchReport& report, const BenchRow& row) {
  for (const BenchRow& other : report.rows) {
    if (other.kv_cache && other.kind == row.kind && other.kv_format == row.kv_format &&
        other.depth == row.depth && other.batch == row.batch)
      return &other;
  }
  return nullptr;
}

void print_table(const BenchFlags& flags, const BenchReport& report) {
  const MachineLimits& limits = report.limits;
  print_out(fmt::format("{} on {}: {} of weights, loaded in {:.0f} ms\n",
                        report.model_name.empty() ? "the model" : report.model_name, report.backend,
                        format_bytes(report.weight_bytes), report.load_ms));
  print_out(
      fmt::format("measured limits: reading {:.1f} GB/s; int8 {:.2f} TOP/s, bf16 {:.2f} TFLOP/s, "
                  "f32 {:.2f} TFLOP/s\n",
                  limits.read_bytes_per_s * 1e-9, limits.int8_ops * 1e-12,
                  limits.bf16_flops * 1e-12, limits.f32_flops * 1e-12));
  if (flags.options.shared_prefix > 0)
    print_out(fmt::format("{} tokens shared by all sequences\n", flags.options.shared_prefix));
  print_out(fmt::format("{:>8} {:>5} {:>6} {:>7} {:>6} {:>11} {:>17} {:>8} {:>9}  {}\n", "", "kv",
                        "cache", "depth", "batch", "tokens/s", "lowest..highest", "GB/s",
                        "of limit", "output"));
  for (const BenchRow& row : report.rows) {
    const auto rate = [&](double seconds) { return static_cast<double>(row.tokens) / seconds; };
    print_out(fmt::format(
        "{:>8} {:>5} {:>6} {:>7} {:>6} {:>11.1f} {:>8.1f}..{:<7.1f} {:>8.2f} {:>8.1f}%  {:016x}\n",
        kind_name(row.kind), kv_format_name(row.kv_format), row.kv_cache ? "on" : "off", row.depth,
        row.batch, row.tokens_per_s(), rate(row.seconds.highest), rate(row.seconds.lowest),
        row.bytes_per_s() * 1e-9, 100 * row.share_of_limit(), row.hash));
  }
  for (const BenchRow& row : report.rows) {
    const BenchRow* on = row.kv_cache ? nullptr : with_cache(report, row);
    if (on == nullptr) continue;
    if (row.kind == BenchKind::kPrefill) {
      if (on->cached_tokens == 0) continue;
      print_out(
          fmt::format("first token of prompts of {} tokens, batch {}, {}: {:.1f} ms with {} in the "
                      "cache, {:.1f} ms "
                      "without: {:.1f} times as long\n",
                      row.tokens / row.batch, row.batch, kv_format_name(row.kv_format),
                      on->seconds.median * 1e3, on->cached_tokens / row.batch,
                      row.seconds.median * 1e3, row.seconds.median / on->seconds.median));
      continue;
    }
    print_out(fmt::format(
        "{} tokens of output at depth {}, batch {}, {}: {:.2f} s with the cache, "
        "{:.2f} s without: {:.1f} times as long\n",
        row.tokens, row.depth, row.batch, kv_format_name(row.kv_format), on->seconds.median,
        row.seconds.median, row.seconds.median / on->seconds.median));
  }
}

// Time per output token against the number of tokens before it.
Status write_plot(const BenchFlags& flags, const BenchReport& report) {
  LinePlot plot = {
      .title = "Time per output token", .x_label = "tokens of context", .y_label = "ms per token"};
  for (const BenchRow& row : report.rows) {
    if (row.token_ms.empty()) continue;
    PlotLine line{fmt::format("{}, cache {}, batch {}", kv_format_name(row.kv_format),
                              row.kv_cache ? "on" : "off", row.batch),
                  {}};
    const auto known = std::ranges::find(plot.lines, line.label, &PlotLine::label);
    PlotLine& target = known == plot.lines.end() ? plot.lines.emplace_back(line) : *known;
    for (size_t i = 0; i < row.token_ms.size(); ++i) {
      target.points.emplace_back(
          static_cast<double>(flags.options.shared_prefix + row.depth + static_cast<int64_t>(i)),
          row.token_ms[i]);
    }
  }
  if (plot.lines.empty()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--plot shows the time per output token; ask for some with --gen");
  }
  for (PlotLine& line : plot.lines) std::ranges::sort(line.points);
  QUIPU_ASSIGN_OR_RETURN(AtomicFileWriter file, AtomicFileWriter::create(flags.plot));
  QUIPU_RETURN_IF_ERROR(file.write(render_svg(plot)));
  return file.finish();
}

int bench_command(BenchFlags& flags) {
  const Status lists = read_lists(flags);
  if (!lists.ok()) return report_error(lists);
  const Result<std::filesystem::path> path = model_path_or_default(flags.options.model.model);
  if (!path.ok()) return report_error(path.status());
  flags.options.model.model = *path;
  const InterruptGuard interrupt;
  const Result<BenchReport> report = [&] {
    ProgressLine progress(flags.output, "measuring");
    return run_bench(flags.options, [&](size_t done, size_t total) {
      progress.update(done, total);
      return !interrupt.interrupted();
    });
  }();
  if (!report.ok()) return report_error(report.status());
  if (flags.output.json) {
    print_json(report_to_json(flags, *report));
  } else {
    print_table(flags, *report);
  }
  if (!flags.plot.empty()) {
    const Status written = write_plot(flags, *report);
    if (!written.ok()) return report_error(written);
  }
  return kExitOk;
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<BenchFlags>();
  BenchOptions& options = flags->options;
  CLI::App* command = app.add_subcommand(
      "bench", "Tokens per second of a model, next to what this machine could reach");
  add_model_flags(*command, options.model);
  // Lists come in place of what other commands take one of; nothing here is evicted or is text.
  for (const char* name :
       {"--kv-format", "--kv-cache", "--kv-policy", "--kv-host-memory", "--pre-tokenizer"})
    command->remove_option(command->get_option(name));
  command
      ->add_option("--kv-format,--kv-cache-dtype", flags->kv_formats,
                   "Formats of keys and values, such as bf16,f32")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--kv-cache", flags->kv_cache, "on, off, or both: on,off")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--prompt", options.prompt, "Prompt tokens to compute; 0: no prefill rows")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("-n,--gen", options.generate, "Output tokens of each sequence; 0: no rows")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--depth", options.depths, "Tokens before those, such as 0,4096")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--batch", options.batches, "Sequences at once, such as 1,16")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      ->add_option("--shared-prefix", options.shared_prefix,
                   "Tokens that all sequences begin with, before their depth")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--repeat", options.repeat, "Repetitions of each row")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Seed of the token ids")->capture_default_str();
  command->add_option("--plot", flags->plot,
                      "Write the time per output token over the context as an SVG picture");
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = bench_command(*flags); });
}

}  // namespace quipu
