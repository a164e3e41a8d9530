#include "engine/engine.h"

#include <algorithm>

#include "base/units.h"

namespace quipu {

KvCacheSpec kv_cache_spec_for(const ModelConfig& config, KvFormat format, int block_tokens) {
  const std::vector<KvLayerShape> layers(
      static_cast<size_t>(config.block_count),
      {config.head_count_kv, config.key_length, config.value_length});
  return make_kv_cache_spec(layers, format, block_tokens);
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
  const KvCacheSpec spec = kv_cache_spec_for(model.config(), config.kv_format, config.block_tokens);
  const uint64_t blocks = config.kv_bytes / spec.block_bytes;
  if (blocks < 1 || blocks > (uint64_t{1} << 30)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} of KV memory was asked for; one block of {} tokens takes {}",
                      format_bytes(config.kv_bytes), config.block_tokens,
                      format_bytes(spec.block_bytes));
  }
  QUIPU_ASSIGN_OR_RETURN(KvStorage storage,
                         KvStorage::create(backend, spec, static_cast<int>(blocks)));
  const SchedulerConfig scheduler = {
      .batch_tokens_max = model.batch_tokens_max(),
      .prefill_chunk_max = std::min(config.prefill_chunk_max, model.batch_tokens_max()),
      .sequences_max = config.sequences_max,
      .context_length = context,
      .keep_kv = config.keep_kv};
  const KvCacheConfig cache = {.total_blocks = storage.blocks(),
                               .block_tokens = config.block_tokens,
                               .fingerprint = config.fingerprint,
                               .policy = config.kv_policy,
                               .publish = config.keep_kv};
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
