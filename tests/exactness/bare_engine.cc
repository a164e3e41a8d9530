#include "bare_engine.h"

namespace quipu::exactness {

namespace {

constexpr int kInputBlocks = 64;

std::unique_ptr<KvStorage> make_input_storage(TinyModel& model, const BareSettings& settings) {
  if (!model.model->config().encoder_decoder.has_value()) return nullptr;
  const int64_t blocks[] = {kInputBlocks};
  Result<KvStorage> storage = KvStorage::create(
      *model.backend,
      input_kv_spec_for(model.model->config(), settings.format, settings.block_tokens), blocks);
  QUIPU_CHECK(storage.ok(), "{}", storage.status().message());
  const Status room = model.model->reserve_input(kInputBlocks * settings.block_tokens);
  QUIPU_CHECK(room.ok(), "{}", room.message());
  return std::make_unique<KvStorage>(std::move(storage).value());
}

}  // namespace

BareEngine::BareEngine(TinyModel& model, const BareSettings& settings)
    : config_(model.model->config()),
      storage_(make_storage(model, settings)),
      cache_(cache_config(settings), clock_),
      input_storage_(make_input_storage(model, settings)),
      inputs_(input_storage_ == nullptr
                  ? nullptr
                  : std::make_unique<EncodingCache>(EncodingCacheConfig{
                        .total_blocks = kInputBlocks, .block_tokens = settings.block_tokens})),
      runner_(*model.model, *model.backend, storage_, input_storage_.get(), settings.tier, clock_) {
}

KvStorage BareEngine::make_storage(TinyModel& model, const BareSettings& settings) {
  const KvCacheSpec spec =
      kv_cache_spec_for(model.model->config(), settings.format, settings.block_tokens);
  Result<KvStorage> storage = KvStorage::create(
      *model.backend, spec, std::span(settings.blocks).first(spec.groups.size()));
  QUIPU_CHECK(storage.ok(), "{}", storage.status().message());
  return std::move(storage).value();
}

KvCacheConfig BareEngine::cache_config(const BareSettings& settings) const {
  KvCacheConfig config = {
      .groups = {}, .block_tokens = settings.block_tokens, .tier = settings.tier};
  const KvCacheSpec& spec = storage_.spec();
  for (size_t g = 0; g < spec.groups.size(); ++g) {
    config.groups.push_back({static_cast<int>(settings.blocks[g]), spec.groups[g].lifetime,
                             spec.groups[g].block_bytes});
  }
  return config;
}

std::unique_ptr<Sequence> BareEngine::make(std::vector<TokenId> tokens) {
  Request request;
  request.prompt = std::move(tokens);
  request.logits_wanted = LogitsWanted::kSampled;
  add_input(config_, request);
  // The observer must know the sequence, which is made from the request.
  auto slot = std::make_shared<std::vector<float>*>(nullptr);
  request.on_logits = [slot](int64_t, std::span<const float> logits) {
    (*slot)->assign(logits.begin(), logits.end());
  };
  auto sequence = std::make_unique<Sequence>(std::move(request), cache_.make_sequence(), 0);
  *slot = &logits_[sequence.get()];
  (*slot)->clear();
  if (inputs_ != nullptr) {
    sequence->input_key = inputs_->key("", sequence->request.input);
    sequence->kv.salt = sequence->input_key.to_hex();
  }
  return sequence;
}

std::unique_ptr<Sequence> BareEngine::start(std::vector<TokenId> tokens) {
  std::unique_ptr<Sequence> sequence = make(std::move(tokens));
  restart(*sequence);
  return sequence;
}

void BareEngine::restart(Sequence& sequence) {
  cache_.begin(sequence.kv, sequence.tokens, sequence.num_tokens() - 1, plan_.copies);
  encode(sequence);
}

void BareEngine::encode(Sequence& sequence) {
  if (inputs_ == nullptr) return;
  std::optional<EncodingCache::Acquired> acquired =
      inputs_->acquire(sequence.input_key, sequence.num_input_tokens());
  QUIPU_CHECK(acquired.has_value(), "no room for an input");
  sequence.encoding = std::move(acquired->encoding);
  if (acquired->encoded) return;
  EncodeTask task{sequence.request.input, {}};
  for (const BlockRef& block : sequence.encoding.blocks()) task.blocks.push_back(block.id());
  plan_.encodes.push_back(std::move(task));
}

std::unique_ptr<Sequence> BareEngine::fork(const Sequence& source, std::vector<TokenId> tokens) {
  std::unique_ptr<Sequence> sequence = make(std::move(tokens));
  const bool forked = cache_.fork(source.kv, sequence->kv, plan_.copies);
  QUIPU_CHECK(forked, "no block for a fork");
  encode(*sequence);
  return sequence;
}

void BareEngine::regrow(Sequence& sequence, int64_t count, std::span<const TokenId> more) {
  cache_.truncate(sequence.kv, count, plan_.copies);
  sequence.tokens.resize(static_cast<size_t>(count));
  sequence.tokens.insert(sequence.tokens.end(), more.begin(), more.end());
  cache_.check_invariants();
}

void BareEngine::release(Sequence& sequence) {
  cache_.release(sequence.kv, sequence.tokens);
  sequence.encoding.release();
}

void BareEngine::step(std::span<const Share> shares) {
  for (const Share& share : shares) {
    const int64_t done = share.sequence->num_computed_tokens();
    const auto count =
        static_cast<int>(std::min<int64_t>(share.tokens, share.sequence->num_tokens() - done));
    if (count == 0) continue;
    const bool fits = cache_.reserve(share.sequence->kv, done + count);
    QUIPU_CHECK(fits, "no room for {} tokens", done + count);
    plan_.sequences.push_back({share.sequence, done, count});
  }
  cache_.take_transfers(plan_.stores, plan_.loads);
  runner_.run(plan_);
  for (const ScheduledSequence& scheduled : plan_.sequences) {
    cache_.append(scheduled.sequence->kv, scheduled.sequence->tokens, scheduled.num_tokens);
  }
  cache_.check_invariants();
  plan_.clear();
}

const std::vector<float>& BareEngine::finish(Sequence& sequence, int chunk) {
  while (sequence.num_computed_tokens() < sequence.num_tokens()) {
    const Share share = {&sequence, chunk};
    step(std::span(&share, 1));
  }
  return logits(sequence);
}

void BareEngine::move_blocks() {
  cache_.take_transfers(plan_.stores, plan_.loads);
  runner_.run(plan_);
  plan_.stores.clear();
  plan_.copies.clear();
  plan_.loads.clear();
  cache_.finish_transfers();
  cache_.check_invariants();
}

void BareEngine::evict_all() {
  int available = cache_.available_blocks(0);
  for (int group = 1; group < cache_.num_groups(); ++group)
    available = std::min(available, cache_.available_blocks(group));
  SequenceKv hog = cache_.make_sequence();
  const bool fits = cache_.reserve(hog, int64_t{available} * cache_.block_tokens());
  QUIPU_CHECK(fits, "no room for what is available: {} blocks", available);
  move_blocks();
  cache_.release(hog, {});
}

int64_t BareEngine::promote(const Sequence& sequence) {
  const std::optional<PromotionTicket> ticket =
      cache_.promote(sequence.kv, sequence.tokens, sequence.num_tokens() - 1);
  if (!ticket.has_value()) return 0;
  move_blocks();
  QUIPU_CHECK(!cache_.is_in_flight(ticket->id), "the tier has not ended its loads");
  return ticket->tokens_after;
}

}  // namespace quipu::exactness
