#include "engine/engine.h"

#include <algorithm>

#include "base/check.h"
#include "base/units.h"

namespace quipu {

namespace {

// What the keys and values of upper layers depend on beside tokens: what the layers below saw.
std::string lifetimes_of(const KvCacheSpec& spec) {
  std::string text;
  for (const KvGroupSpec& group : spec.groups)
    text += fmt::format("; window {} sinks {}", group.lifetime.window, group.lifetime.sinks);
  return text;
}

}  // namespace

Status check_streaming(const ModelConfig& config, const StreamingConfig& streaming) {
  if (streaming.window < 0 || streaming.sinks < 0 || streaming.sinks > kAttentionChunk ||
      (streaming.sinks > 0 && !streaming.is_on())) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--kv-window {} with --kv-sinks {}: expected a window of at least one token "
                      "and 0 to {} sinks",
                      streaming.window, streaming.sinks, kAttentionChunk);
  }
  if (!streaming.is_on()) return Status::ok_status();
  if (config.encoder_decoder.has_value()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--kv-window: '{}' is an encoder-decoder model, whose positions end with its "
                      "context; streaming needs rotary positions",
                      config.architecture);
  }
  if (config.positions == PositionKind::kLearned) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--kv-window: '{}' has a learned vector for each of its {} positions and "
                      "none for later ones, so it cannot go on past its context; streaming needs "
                      "rotary positions",
                      config.architecture, config.context_length);
  }
  if (streaming.window + streaming.sinks > config.context_in_force) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--kv-window {} and --kv-sinks {} make distances of up to {} tokens; the "
                      "model was trained for {}",
                      streaming.window, streaming.sinks, streaming.window + streaming.sinks,
                      config.context_in_force);
  }
  return Status::ok_status();
}

KvCacheSpec kv_cache_spec_for(const ModelConfig& config, const KvFormats& formats,
                              int block_tokens, const StreamingConfig& streaming) {
  std::vector<KvLayerShape> layers;
  for (size_t i = 0; i < config.layer_windows.size(); ++i) {
    const int window = config.layer_windows[i];
    KvLifetime lifetime = {.window = window};
    if (streaming.is_on()) {
      // A layer that was trained with a window saw the first tokens go, and needs no sinks.
      const bool trained_with_window =
          window > 0 || (i < config.windowed_layers.size() && config.windowed_layers[i]);
      const int64_t most = window == 0 ? streaming.window : window;
      lifetime = {.window = static_cast<int32_t>(std::min(most, streaming.window)),
                  .sinks = trained_with_window ? 0 : static_cast<int32_t>(streaming.sinks)};
    }
    layers.push_back({.kv_heads = config.head_count_kv,
                      .key_dim = config.key_length,
                      .value_dim = config.value_length,
                      .lifetime = lifetime});
  }
  return make_kv_cache_spec(layers, formats, block_tokens);
}

KvCacheSpec input_kv_spec_for(const ModelConfig& config, const KvFormats& formats,
                              int block_tokens) {
  QUIPU_CHECK(config.encoder_decoder.has_value(), "'{}' has no encoder", config.architecture);
  return kv_cache_spec_for(config, formats, block_tokens);  // cross-attention has the same heads
}

namespace {

// The pool for encoded inputs, and room in the model for the longest that it takes.
Result<std::unique_ptr<KvStorage>> make_input_storage(Model& model, Backend& backend,
                                                      const EngineConfig& config, int64_t context) {
  const KvCacheSpec spec = input_kv_spec_for(model.config(), config.kv_format, config.block_tokens);
  const uint64_t bytes = config.input_kv_bytes == 0 ? config.kv_bytes : config.input_kv_bytes;
  const int64_t blocks[] = {static_cast<int64_t>(bytes / spec.block_bytes())};
  if (blocks[0] < 1 || blocks[0] > (int64_t{1} << 30)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} of KV memory for encoded inputs was asked for; {} tokens, the smallest "
                      "amount, take {}",
                      format_bytes(bytes), config.block_tokens, format_bytes(spec.block_bytes()));
  }
  QUIPU_ASSIGN_OR_RETURN(KvStorage storage, KvStorage::create(backend, spec, blocks));
  QUIPU_RETURN_IF_ERROR(model.reserve_input(std::min(context, blocks[0] * spec.block_tokens)));
  return std::make_unique<KvStorage>(std::move(storage));
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(Model& model, Backend& backend,
                                               const EngineConfig& config, const Clock& clock) {
  QUIPU_RETURN_IF_ERROR(check_streaming(model.config(), config.streaming));
  const bool streams = config.streaming.is_on();
  const int64_t trained = streams ? kStreamedTokensMax : model.config().context_length;
  const int64_t loaded_for = streams ? kStreamedTokensMax : model.config().context_in_force;
  const int64_t context = config.context_length == 0 ? loaded_for : config.context_length;
  if (context < 1 || context > trained) {
    return make_error(
        ErrorCode::kInvalidArgument, "a context of {} tokens was asked for; {} {}", context,
        config.streaming.is_on() ? "streaming ends at" : "the model was trained for", trained);
  }
  if (context > loaded_for) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a context of {} tokens was asked for; the model was loaded for {}", context,
                      loaded_for);
  }
  QUIPU_RETURN_IF_ERROR(config.kv_format.check(model.config().block_count));
  const KvCacheSpec spec =
      kv_cache_spec_for(model.config(), config.kv_format, config.block_tokens, config.streaming);
  SchedulerConfig scheduler = {
      .batch_tokens_max = model.batch_tokens_max(),
      .prefill_chunk_max = std::min(config.prefill_chunk_max, model.batch_tokens_max()),
      .sequences_max = config.sequences_max,
      .context_length = context,
      .keep_kv = config.keep_kv,
      .decode_stretch_max = config.decode_stretch_max,
      .draft_tokens_max = config.draft_tokens_max,
      .forced_tokens_max = config.forced_tokens_max};
  const std::vector<int64_t> blocks =
      divide_kv_bytes(spec, config.kv_bytes, context, scheduler.prefill_chunk_max);
  const auto [fewest, most] = std::minmax_element(blocks.begin(), blocks.end());
  if (*fewest < 1 || *most > (int64_t{1} << 30)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} of KV memory was asked for; {} tokens, the smallest amount, take {}",
                      format_bytes(config.kv_bytes), config.block_tokens,
                      format_bytes(spec.sequence_bytes(1, 1)));
  }
  QUIPU_ASSIGN_OR_RETURN(KvStorage storage, KvStorage::create(backend, spec, blocks));
  std::unique_ptr<KvStorage> input_storage;
  if (model.config().encoder_decoder.has_value()) {
    QUIPU_ASSIGN_OR_RETURN(input_storage, make_input_storage(model, backend, config, context));
    scheduler.inputs = EncodingCacheConfig{.total_blocks = input_storage->blocks(),
                                           .block_tokens = config.block_tokens,
                                           .fingerprint = config.fingerprint,
                                           .keep = config.keep_kv};
  }
  KvCacheConfig cache = {.groups = {},
                         .block_tokens = config.block_tokens,
                         .fingerprint = fmt::format("{} kv {} layout {}{}", config.fingerprint,
                                                    spec.formats(), kKvLayoutVersion,
                                                    lifetimes_of(spec)),
                         .policy = config.kv_policy,
                         .publish = config.keep_kv,
                         .tier = config.keep_kv ? config.tier : nullptr};
  for (size_t g = 0; g < blocks.size(); ++g)
    cache.groups.push_back(
        {static_cast<int>(blocks[g]), spec.groups[g].lifetime, spec.groups[g].block_bytes});
  return std::unique_ptr<Engine>(new Engine(model, backend, std::move(storage),
                                            std::move(input_storage), scheduler, cache, streams,
                                            clock));
}

Engine::Engine(Model& model, Backend& backend, KvStorage storage,
               std::unique_ptr<KvStorage> input_storage, const SchedulerConfig& config,
               const KvCacheConfig& cache, bool is_streaming, const Clock& clock)
    : model_(model),
      clock_(clock),
      is_streaming_(is_streaming),
      storage_(std::move(storage)),
      input_storage_(std::move(input_storage)),
      scheduler_(config, cache, clock),
      runner_(model, backend, storage_, input_storage_.get(), cache.tier, clock) {}

Status Engine::submit(Request request) {
  const auto check = [](std::span<const TokenId> tokens, int64_t vocab_size) {
    for (const TokenId token : tokens) {
      if (token >= 0 && token < vocab_size) continue;
      return make_error(ErrorCode::kInvalidArgument, "token id {} is outside the vocabulary of {}",
                        token, vocab_size);
    }
    return Status::ok_status();
  };
  const ModelConfig& config = model_.config();
  QUIPU_RETURN_IF_ERROR(check(request.prompt, config.vocab_size));
  if (config.encoder_decoder.has_value())
    QUIPU_RETURN_IF_ERROR(check(request.input, config.encoder_decoder->input_vocab_size));
  return scheduler_.submit(std::move(request));
}

std::span<const StepEvent> Engine::step() {
  events_.clear();
  const int64_t plan_begin_ns = clock_.now_ns();
  scheduler_.plan(plan_);
  scheduler_.take_cancelled(events_);
  if (plan_.empty()) return events_;
  const TransferStatistics before = runner_.transfers();
  const int64_t begin_ns = clock_.now_ns();
  const std::span<const TokenId> next_tokens = runner_.run(plan_);
  measure(plan_, before, begin_ns);
  const int64_t commit_begin_ns = clock_.now_ns();
  scheduler_.commit(plan_, next_tokens, events_);
  phases_.plan_ns += begin_ns - plan_begin_ns;
  phases_.commit_ns += clock_.now_ns() - commit_begin_ns;
  ++steps_;
  return events_;
}

// Tells the cost model what a step that restored, or one that computed a prompt, has taken.
void Engine::measure(const StepPlan& plan, const TransferStatistics& before, int64_t begin_ns) {
  constexpr int64_t kPrefillTokensMin = 32;  // fewer are decoding, which costs more per token
  const TransferStatistics& now = runner_.transfers();
  KvCostModel& cost = scheduler_.cache().cost_model();
  if (now.bytes_restored > before.bytes_restored) {
    cost.measured_restore(now.bytes_restored - before.bytes_restored,
                          now.restore_ns - before.restore_ns);
  }
  int64_t tokens = 0;
  for (const ScheduledSequence& scheduled : plan.sequences) tokens += scheduled.num_tokens;
  const int64_t transfer_ns =
      now.restore_ns - before.restore_ns + now.store_ns - before.store_ns;
  if (tokens >= kPrefillTokensMin)
    cost.measured_recompute(tokens, clock_.now_ns() - begin_ns - transfer_ns);
}

EngineStatistics Engine::statistics() const {
  const KvCache& cache = scheduler_.cache();
  EngineStatistics statistics = {.cache = cache.counters(),
                                 .scheduler = scheduler_.counters(),
                                 .policy = std::string(cache.index().policy_name()),
                                 .index_bytes = cache.index().index_bytes(),
                                 .transfers = runner_.transfers(),
                                 .phases = runner_.phases(),
                                 .steps = steps_};
  statistics.phases.plan_ns = phases_.plan_ns;
  statistics.phases.commit_ns = phases_.commit_ns;
  for (int group = 0; group < cache.num_groups(); ++group) {
    const uint64_t block_bytes = storage_.spec().groups[static_cast<size_t>(group)].block_bytes;
    statistics.groups.push_back({cache.lifetime(group), block_bytes, cache.block_states(group)});
    statistics.indexed_bytes +=
        block_bytes * static_cast<uint64_t>(cache.index().num_blocks(group));
  }
  if (const KvTier* tier = cache.tier(); tier != nullptr) {
    statistics.tier = tier->stats();
    statistics.tier_capacity_bytes = tier->capacity_bytes();
  }
  statistics.restore_ns_per_byte = cache.cost_model().restore_ns_per_byte();
  statistics.recompute_ns_per_token = cache.cost_model().recompute_ns_per_token();
  return statistics;
}

}  // namespace quipu
