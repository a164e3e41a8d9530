#include "engine/engine.h"

#include <algorithm>

#include "base/units.h"

namespace quipu {

KvCacheSpec kv_cache_spec_for(const ModelConfig& config, const KvFormats& formats,
                              int block_tokens) {
  std::vector<KvLayerShape> layers;
  for (const int window : config.layer_windows) {
    layers.push_back({.kv_heads = config.head_count_kv,
                      .key_dim = config.key_length,
                      .value_dim = config.value_length,
                      .lifetime = {.window = window}});
  }
  return make_kv_cache_spec(layers, formats, block_tokens);
}

Result<std::unique_ptr<Engine>> Engine::create(Model& model, Backend& backend,
                                               const EngineConfig& config, const Clock& clock) {
  const int64_t trained = model.config().context_length;
  const int64_t context = config.context_length == 0 ? trained : config.context_length;
  if (context < 1 || context > trained) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a context of {} tokens was asked for; the model was trained for {}", context,
                      trained);
  }
  QUIPU_RETURN_IF_ERROR(config.kv_format.check(model.config().block_count));
  const KvCacheSpec spec = kv_cache_spec_for(model.config(), config.kv_format, config.block_tokens);
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
                         .fingerprint = config.fingerprint + " kv " + spec.formats(),
                         .policy = config.kv_policy,
                         .publish = config.keep_kv};
  for (size_t g = 0; g < blocks.size(); ++g)
    cache.groups.push_back({static_cast<int>(blocks[g]), spec.groups[g].lifetime});
  return std::unique_ptr<Engine>(
      new Engine(model, backend, std::move(storage), scheduler, cache, clock));
}

Engine::Engine(Model& model, Backend& backend, KvStorage storage, const SchedulerConfig& config,
               const KvCacheConfig& cache, const Clock& clock)
    : model_(model),
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
