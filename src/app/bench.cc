#include "app/bench.h"

#include <xxhash.h>

#include <algorithm>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "base/clock.h"
#include "base/random.h"
#include "engine/engine.h"
#include "format/model_file.h"
#include "format/weight_types.h"
#include "model/model.h"

namespace quipu {

namespace {

struct Setting {
  BenchKind kind;
  KvFormat kv_format;
  bool kv_cache;
  int64_t depth, batch;
};

// Elements of the linear layers, for the count of multiply-adds.
struct LinearSizes {
  double layers = 0, head = 0;
  DType commonest = DType::kF32;  // by elements
};

LinearSizes linear_sizes(const ModelFile& file) {
  LinearSizes sizes;
  std::vector<std::pair<DType, double>> by_type;
  for (const TensorInfo& tensor : file.tensors()) {
    const bool tied_head =
        tensor.name == "token_embd.weight" && file.find("output.weight") == nullptr;
    const bool head = tied_head || tensor.name == "output.weight";
    if (!head && !is_linear_weight(tensor.name, tensor.shape)) continue;
    const auto elements = static_cast<double>(element_count(tensor.shape));
    (head ? sizes.head : sizes.layers) += elements;
    if (head) continue;
    const auto known = std::ranges::find(by_type, tensor.dtype, &std::pair<DType, double>::first);
    if (known == by_type.end()) {
      by_type.emplace_back(tensor.dtype, elements);
    } else {
      known->second += elements;
    }
  }
  const auto most = std::ranges::max_element(by_type, {}, &std::pair<DType, double>::second);
  if (most != by_type.end()) sizes.commonest = most->first;
  return sizes;
}

// What a row must do at least.
struct Work {
  double bytes = 0, linear_ops = 0, attention_ops = 0;
};

// Counts work on one model with one format of keys and values.
class WorkModel {
 public:
  WorkModel(const Model& model, const LinearSizes& sizes, KvFormat format, int block_tokens)
      : config_(model.config()),
        sizes_(sizes),
        weight_bytes_(static_cast<double>(model.weight_bytes())),
        kv_bytes_per_layer_(
            static_cast<double>(
                kv_cache_spec_for(config_, format, block_tokens).bytes_per_token()) /
            config_.block_count) {}

  // Weights are read once per step, for all sequences together.
  void add_steps(Work& work, int64_t steps) const {
    work.bytes += weight_bytes_ * static_cast<double>(steps);
  }

  // `count` tokens of one sequence from position `first` on, one of which needs logits. The keys
  // and values of `already_read` tokens at its beginning were read for another sequence.
  void add_tokens(Work& work, int64_t first, int64_t count, int64_t already_read) const {
    work.linear_ops += 2 * (sizes_.layers * static_cast<double>(count) + sizes_.head);
    const double per_position = 4.0 * config_.head_count * config_.key_length;
    for (const int window : config_.layer_windows) {
      work.attention_ops += per_position * seen_by(first, count, window);
      const int64_t end = first + count;
      const int64_t begin = window > 0 ? std::max<int64_t>(0, first + 1 - window) : 0;
      work.bytes += kv_bytes_per_layer_ *
                    static_cast<double>(std::max<int64_t>(0, end - std::max(begin, already_read)));
    }
  }

 private:
  // Positions that `count` queries from `first` on see, all together.
  static double seen_by(int64_t first, int64_t count, int window) {
    const auto full = [](double from, double n) { return n * from + n * (n + 1) / 2; };
    if (window == 0) return full(static_cast<double>(first), static_cast<double>(count));
    const int64_t growing = std::clamp<int64_t>(window - first, 0, count);
    return full(static_cast<double>(first), static_cast<double>(growing)) +
           static_cast<double>(count - growing) * window;
  }

  const ModelConfig& config_;
  LinearSizes sizes_;
  double weight_bytes_, kv_bytes_per_layer_;
};

double limit_seconds(const Work& work, double read_bytes_per_s, const MachineLimits& limits,
                     DType weights, KvFormat format) {
  double weight_peak = limits.int8_ops;
  if (weights == DType::kF32 || weights == DType::kF16) weight_peak = limits.f32_flops;
  if (weights == DType::kBF16) weight_peak = limits.bf16_flops;
  double kv_peak = limits.int8_ops;
  if (format == KvFormat::kF32) kv_peak = limits.f32_flops;
  if (format == KvFormat::kBF16) kv_peak = limits.bf16_flops;
  return std::max(work.bytes / read_bytes_per_s,
                  work.linear_ops / weight_peak + work.attention_ops / kv_peak);
}

Spread spread_of(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t n = values.size();
  const double median = n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  return {median, values.front(), values.back()};
}

// Random tokens that a tuple of numbers decides.
void append_tokens(std::vector<TokenId>& tokens, uint64_t seed, uint64_t stream, int64_t count,
                   int64_t vocabulary) {
  Random random(philox4x32(seed, stream, 0)[0] | uint64_t{1} << 32);
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<TokenId>(random.next_below(static_cast<uint64_t>(vocabulary))));
  }
}

// One engine, and the rows that are measured on it.
class Bench {
 public:
  Bench(const BenchOptions& options, const Setting& setting, Engine& engine, const Clock& clock,
        const WorkModel& work_model, ReadMeter& reads)
      : options_(options),
        setting_(setting),
        engine_(engine),
        clock_(clock),
        work_model_(work_model),
        reads_(reads),
        vocabulary_(engine.model().config().vocab_size) {}

  Result<BenchRow> measure() {
    BenchRow row;
    row.kind = setting_.kind;
    row.kv_format = setting_.kv_format;
    row.kv_cache = setting_.kv_cache;
    row.depth = setting_.depth;
    row.batch = setting_.batch;
    if (setting_.kv_cache) QUIPU_RETURN_IF_ERROR(fill_cache());
    // Once untimed: memory is touched, threads are awake.
    BenchRow ignored;
    QUIPU_RETURN_IF_ERROR(repeat_once(ignored, 0));
    std::vector<double> seconds, reads{reads_.read()};
    std::vector<std::vector<double>> token_ms;
    for (int repetition = 1; repetition <= options_.repeat; ++repetition) {
      QUIPU_RETURN_IF_ERROR(repeat_once(row, static_cast<uint64_t>(repetition)));
      reads.push_back(reads_.read());
      seconds.push_back(seconds_);
      token_ms.push_back(token_ms_);
    }
    row.seconds = spread_of(seconds);
    for (size_t i = 0; i < token_ms.front().size(); ++i) {
      std::vector<double> column;
      for (const auto& one : token_ms) {
        if (i < one.size()) column.push_back(one[i]);
      }
      row.token_ms.push_back(spread_of(column).median);
    }
    row.bytes = work_.bytes;
    row.read_bytes_per_s = spread_of(reads).median;
    return row;
  }

  const Work& work() const { return work_; }  // of the last repetition

 private:
  // A sequence's tokens: the shared ones, its own, and `fresh` that no repetition had before.
  std::vector<TokenId> tokens_of(int64_t sequence, uint64_t repetition, int64_t fresh) const {
    std::vector<TokenId> tokens;
    const auto stream = static_cast<uint64_t>(sequence);
    append_tokens(tokens, options_.seed, ~uint64_t{0}, options_.shared_prefix, vocabulary_);
    append_tokens(tokens, options_.seed, stream, setting_.depth, vocabulary_);
    append_tokens(tokens, options_.seed, stream | (repetition + 1) << 32, fresh, vocabulary_);
    return tokens;
  }

  Status submit(int64_t id, std::vector<TokenId> prompt, int64_t max_tokens, Retention retention) {
    Request request;
    request.id = RequestId(id);
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.retention = retention;
    return engine_.submit(std::move(request));
  }

  // Computes what every repetition has behind it, and asks the cache to keep it.
  Status fill_cache() {
    for (int64_t sequence = 0; sequence < setting_.batch; ++sequence) {
      std::vector<TokenId> tokens = tokens_of(sequence, 0, 0);
      if (tokens.empty()) continue;
      QUIPU_RETURN_IF_ERROR(submit(sequence, std::move(tokens), 0, {.priority = 1}));
      while (engine_.has_work()) engine_.step();
    }
    return Status::ok_status();
  }

  Status repeat_once(BenchRow& row, uint64_t repetition) {
    const bool prefill = setting_.kind == BenchKind::kPrefill;
    // What a repetition leaves behind is the first to go.
    const Retention brief = {.priority = 0, .expires_ns = 0};
    const bool needs_token = options_.shared_prefix + setting_.depth == 0;
    const int64_t fresh = prefill ? options_.prompt : needs_token ? 1 : 0;
    outputs_.assign(static_cast<size_t>(setting_.batch), {});
    token_ms_.clear();
    for (int64_t sequence = 0; sequence < setting_.batch; ++sequence) {
      std::vector<TokenId> prompt = tokens_of(sequence, prefill ? repetition : 0, fresh);
      prompt_tokens_ = static_cast<int64_t>(prompt.size());
      const int64_t room = engine_.scheduler().token_limit() - prompt_tokens_;
      QUIPU_RETURN_IF_ERROR(submit(sequence, std::move(prompt), prefill ? 1 : room, brief));
    }
    prefill ? run_prefill(row) : run_decode(row);
    for (const std::vector<TokenId>& output : outputs_) {
      row.hash = XXH3_64bits_withSeed(output.data(), output.size() * sizeof(TokenId), row.hash);
    }
    return Status::ok_status();
  }

  void run_prefill(BenchRow& row) {
    const int64_t begin_ns = clock_.now_ns();
    int64_t steps = 0;
    row.cached_tokens = 0;
    while (engine_.has_work()) {
      ++steps;
      for (const StepEvent& event : engine_.step()) {
        if (event.token) outputs_[index_of(event)].push_back(*event.token);
        if (event.finish != FinishReason::kNone) row.cached_tokens += event.stats.cached_tokens;
      }
    }
    seconds_ = static_cast<double>(clock_.now_ns() - begin_ns) * 1e-9;
    row.tokens = setting_.batch * prompt_tokens_ - row.cached_tokens;
    work_ = {};
    work_model_.add_steps(work_, steps);
    const int64_t cached = row.cached_tokens / setting_.batch;
    for (int64_t sequence = 0; sequence < setting_.batch; ++sequence) {
      work_model_.add_tokens(work_, cached, prompt_tokens_ - cached,
                             sequence == 0 ? 0 : options_.shared_prefix);
    }
  }

  // From the step in which the last sequence had its first token, until every one had `generate`
  // more; then all are cancelled.
  void run_decode(BenchRow& row) {
    const auto wanted = static_cast<size_t>(options_.generate) + 1;
    size_t started = 0, done = 0;
    int64_t steps = 0, begin_ns = 0, last_ns = 0;
    measured_.assign(static_cast<size_t>(setting_.batch), 0);
    while (done < static_cast<size_t>(setting_.batch) && engine_.has_work()) {
      const bool measuring = started == static_cast<size_t>(setting_.batch);
      const std::span<const StepEvent> events = engine_.step();
      const int64_t now_ns = clock_.now_ns();
      for (const StepEvent& event : events) {
        if (!event.token) continue;
        std::vector<TokenId>& output = outputs_[index_of(event)];
        started += output.empty();
        output.push_back(*event.token);
        done += output.size() == wanted;
        measured_[index_of(event)] += measuring;
        if (index_of(event) != 0 || !measuring) continue;
        token_ms_.push_back(static_cast<double>(now_ns - last_ns) * 1e-6);
        last_ns = now_ns;
      }
      steps += measuring;
      if (!measuring && started == static_cast<size_t>(setting_.batch)) begin_ns = last_ns = now_ns;
    }
    seconds_ = static_cast<double>(clock_.now_ns() - begin_ns) * 1e-9;
    for (int64_t sequence = 0; sequence < setting_.batch; ++sequence)
      engine_.cancel(RequestId(sequence));
    row.cached_tokens = 0;
    for (const StepEvent& event : engine_.step()) row.cached_tokens += event.stats.cached_tokens;
    row.tokens = std::accumulate(measured_.begin(), measured_.end(), int64_t{0});
    count_decode(steps);
    for (std::vector<TokenId>& output : outputs_) output.resize(std::min(output.size(), wanted));
  }

  void count_decode(int64_t steps) {
    work_ = {};
    work_model_.add_steps(work_, steps);
    for (int64_t sequence = 0; sequence < setting_.batch; ++sequence) {
      const auto index = static_cast<size_t>(sequence);
      const auto produced = static_cast<int64_t>(outputs_[index].size());
      // Output token i is computed from the one before it, at position prompt + i - 1.
      for (int64_t token = produced - measured_[index]; token < produced; ++token) {
        const int64_t position = prompt_tokens_ + token - 1;
        const int64_t first = setting_.kv_cache ? position : 0;
        work_model_.add_tokens(work_, first, position + 1 - first,
                               sequence == 0 ? 0 : options_.shared_prefix);
      }
    }
  }

  static size_t index_of(const StepEvent& event) { return static_cast<size_t>(event.id.value()); }

  const BenchOptions& options_;
  const Setting& setting_;
  Engine& engine_;
  const Clock& clock_;
  const WorkModel& work_model_;
  ReadMeter& reads_;
  int64_t vocabulary_;
  // Of the last repetition.
  int64_t prompt_tokens_ = 0;
  double seconds_ = 0;
  Work work_;
  std::vector<std::vector<TokenId>> outputs_;
  std::vector<double> token_ms_;
  std::vector<int64_t> measured_;  // output tokens of each sequence while all were decoding
};

std::vector<Setting> settings_of(const BenchOptions& options) {
  std::vector<Setting> settings;
  for (const bool kv_cache : options.kv_cache) {
    for (const KvFormat format : options.kv_formats) {
      for (const int64_t depth : options.depths) {
        for (const int64_t batch : options.batches) {
          if (options.prompt > 0)
            settings.push_back({BenchKind::kPrefill, format, kv_cache, depth, batch});
          if (options.generate > 0)
            settings.push_back({BenchKind::kDecode, format, kv_cache, depth, batch});
        }
      }
    }
  }
  return settings;
}

// The longest sequence of a setting: what is behind it, then a prompt and its first token, or the
// output and what the first sequences produce until the last has begun (a step for each at most).
int64_t tokens_needed(const BenchOptions& options, const Setting& setting) {
  const int64_t behind = std::max<int64_t>(1, options.shared_prefix + setting.depth);
  if (setting.kind == BenchKind::kPrefill)
    return options.shared_prefix + setting.depth + options.prompt + 1;
  return behind + options.generate + setting.batch + 1;
}

Result<std::unique_ptr<Engine>> make_engine(const BenchOptions& options, const Setting& setting,
                                            Model& model, Backend& backend, const Clock& clock) {
  const int64_t needed = tokens_needed(options, setting);
  const int64_t context = model.config().context_in_force;
  if (needed > context) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} tokens of shared prefix and depth with {} of prompt or {} of output need "
                      "a context of {}; the model has {}",
                      options.shared_prefix + setting.depth, options.prompt, options.generate,
                      needed, context);
  }
  const int block_tokens = options.model.block_tokens;
  const KvCacheSpec spec = kv_cache_spec_for(model.config(), setting.kv_format, block_tokens);
  // Room for what is kept and for one repetition, each rounded up to blocks.
  const uint64_t sequence =
      spec.sequence_bytes(needed + 2 * block_tokens, options.model.prefill_chunk);
  const uint64_t kept = spec.sequence_bytes(options.shared_prefix + setting.depth + block_tokens,
                                            options.model.prefill_chunk);
  const EngineConfig config = {
      .context_length = context,
      .kv_format = setting.kv_format,
      .block_tokens = block_tokens,
      .kv_bytes = options.model.kv_bytes.value_or((sequence + kept) *
                                                  static_cast<uint64_t>(setting.batch + 1)),
      .prefill_chunk_max = options.model.prefill_chunk,
      .sequences_max = static_cast<int>(std::max<int64_t>(setting.batch, 1)),
      .keep_kv = setting.kv_cache};
  return Engine::create(model, backend, config, clock);
}

Status check_options(const BenchOptions& options) {
  const auto bad = [](std::string_view what, int64_t value) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} is {}; expected a number that is not too "
                      "small",
                      what, value);
  };
  if (options.prompt < 0) return bad("prompt", options.prompt);
  if (options.generate < 0) return bad("gen", options.generate);
  if (options.shared_prefix < 0) return bad("shared-prefix", options.shared_prefix);
  if (options.repeat < 1) return bad("repeat", options.repeat);
  for (const int64_t depth : options.depths) {
    if (depth < 0) return bad("depth", depth);
  }
  for (const int64_t batch : options.batches) {
    if (batch < 1 || batch > 4096) {
      return make_error(ErrorCode::kInvalidArgument, "batch is {}; expected 1 to 4096", batch);
    }
  }
  if (options.prompt + options.generate == 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "prompt and gen are both 0: there is nothing to measure");
  }
  return Status::ok_status();
}

}  // namespace

Result<BenchReport> run_bench(const BenchOptions& options, const BenchProgress& progress) {
  QUIPU_RETURN_IF_ERROR(check_options(options));
  const SteadyClock clock;
  const int threads = options.model.threads > 0 ? options.model.threads
                                                : std::max(1, detect_cpu_features().logical_cpus);
  BenchReport report;
  QUIPU_ASSIGN_OR_RETURN(const Isa isa, choose_isa(options.model.isa));
  const CpuPeaks peaks = measure_cpu_peaks(isa, threads, options.measure_seconds);
  ReadMeter reads(threads);
  report.limits = {.read_bytes_per_s = reads.read(options.measure_seconds),
                   .int8_ops = peaks.int8_ops,
                   .bf16_flops = peaks.bf16_flops,
                   .f32_flops = peaks.f32_flops};

  const int64_t begin_ns = clock.now_ns();
  QUIPU_ASSIGN_OR_RETURN(
      const std::unique_ptr<ModelFile> file,
      open_model_file(options.model.model, {.weights = options.model.weights, .threads = threads}));
  QUIPU_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                         make_cpu_backend({.threads = threads, .isa = isa}));
  QUIPU_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                         load_model(*file, *backend,
                                    {.batch_tokens_max = std::max(options.model.prefill_chunk, 512),
                                     .context_length = options.model.context_length}));
  report.load_ms = elapsed_ms(begin_ns, clock.now_ns());
  report.model_name = model->config().name;
  report.backend = backend->description();
  report.weight_bytes = model->weight_bytes();

  const LinearSizes sizes = linear_sizes(*file);
  const std::vector<Setting> settings = settings_of(options);
  for (const Setting& setting : settings) {
    if (progress && !progress(report.rows.size(), settings.size())) {
      return make_error(ErrorCode::kCancelled, "interrupted after {} of {} rows",
                        report.rows.size(), settings.size());
    }
    QUIPU_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                           make_engine(options, setting, *model, *backend, clock));
    const WorkModel work_model(*model, sizes, setting.kv_format, options.model.block_tokens);
    Bench bench(options, setting, *engine, clock, work_model, reads);
    QUIPU_ASSIGN_OR_RETURN(BenchRow row, bench.measure());
    row.limit_seconds = limit_seconds(bench.work(), row.read_bytes_per_s, report.limits,
                                      sizes.commonest, setting.kv_format);
    report.rows.push_back(std::move(row));
  }
  return report;
}

}  // namespace quipu
