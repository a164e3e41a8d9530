#include "engine/engine.h"

#include <algorithm>

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
  if (config.positions == PositionKind::kLearned) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--kv-window: '{}' has a learned vector for each of its {} positions and "
                      "none for later ones, so it cannot go on past its context; streaming needs "
                      "rotary positions",
                      config.architecture, config.context_length);
  }
  if (streaming.window + streaming.sinks > config.context_length) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--kv-window {} and --kv-sinks {} make distances of up to {} tokens; the "
                      "model was trained for {}",
                      streaming.window, streaming.sinks, streaming.window + streaming.sinks,
                      config.context_length);
  }
  return Status::ok_status();
}

KvCacheSpec kv_cache_spec_for(const ModelConfig& config, KvFormat format, int block_tokens,
                              const StreamingConfig& streaming) {
  std::vector<KvLayerShape> layers;
  for (const int window : config.layer_windows) {
    KvLifetime lifetime = {.window = window};
    if (streaming.is_on()) {
      // A layer that was trained with a window saw the first tokens go, and needs no sinks.
      const int64_t most = window == 0 ? streaming.window : window;
      lifetime = {.window = static_cast<int32_t>(std::min(most, streaming.window)),
                  .sinks = window == 0 ? static_cast<int32_t>(streaming.sinks) : 0};
    }
    layers.push_back({.kv_heads = config.head_count_kv,
                      .key_dim = config.key_length,
                      .value_dim = config.value_length,
                      .lifetime = lifetime});
  }
  return make_kv_cache_spec(layers, format, block_tokens);
}

Result<std::unique_ptr<Engine>> Engine::create(Model& model, Backend& backend,
                                               const EngineConfig& config, const Clock& clock) {
  QUIPU_RETURN_IF_ERROR(check_streaming(model.config(), config.streaming));
  const int64_t trained =
      config.streaming.is_on() ? kStreamedTokensMax : model.config().context_length;
  const int64_t context = config.context_length == 0 ? trained : config.context_length;
  if (context < 1 || context > trained) {
    return make_error(
        ErrorCode::kInvalidArgument, "a context of {} tokens was asked for; {} {}", context,
        config.streaming.is_on() ? "streaming ends at" : "the model was trained for", trained);
  }
  const KvCacheSpec spec =
      kv_cache_spec_for(model.config(), config.kv_format, config.block_tokens, config.streaming);
  const SchedulerConfig scheduler = {
      .batch_tokens_max = model.batch_tokens_max(),
      .prefill_chunk_max = std::min(config.prefill_chunk_max, model.batch_tokens_max()),
      .sequences_max = config.sequences_max,
      .context_length = context,
      .keep_kv = config.keep_kv};
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
  KvCacheConfig cache = {.groups = {},
                         .block_tokens = config.block_tokens,
                         .fingerprint = config.fingerprint + lifetimes_of(spec),
                         .policy = config.kv_policy,
                         .publish = config.keep_kv};
  for (size_t g = 0; g < blocks.size(); ++g)
    cache.groups.push_back({static_cast<int>(blocks[g]), spec.groups[g].lifetime});
  return std::unique_ptr<Engine>(new Engine(model, backend, std::move(storage), scheduler, cache,
                                            config.streaming.is_on(), clock));
}

Engine::Engine(Model& model, Backend& backend, KvStorage storage, const SchedulerConfig& config,
               const KvCacheConfig& cache, bool is_streaming, const Clock& clock)
    : model_(model),
      is_streaming_(is_streaming),
      storage_(std::move(storage)),
      scheduler_(config, cache, clock),
      runner_(model, backend, storage_) {}

Status Engine::submit(Request request) {
  for (const TokenId token : request.prompt) {
    if (token >= 0 && token < model_.config().vocab_size) continue;
    return make_error(ErrorCode::kInvalidArgument, "token id {} is outside the vocabulary of {}",
                      token, model_.config().vocab_size);
  }
  return scheduler_.submit(std::move(request));
}

std::span<const StepEvent> Engine::step() {
  events_.clear();
  scheduler_.take_cancelled(events_);
  scheduler_.plan(plan_);
  if (!plan_.empty()) scheduler_.commit(plan_, runner_.run(plan_), events_);
  return events_;
}

}  // namespace quipu
