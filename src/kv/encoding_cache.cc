#include "kv/encoding_cache.h"

#include "base/check.h"

namespace quipu {

struct EncodingRef::Encoding {
  BlockKey key;
  int64_t num_tokens = 0;
  std::vector<BlockRef> blocks;
  int holders = 0;
  std::list<Encoding*>::iterator unused;  // its place in the order of eviction, without holders
};

void EncodingRef::release() {
  if (encoding_ != nullptr) cache_->drop(*encoding_);
  cache_ = nullptr;
  encoding_ = nullptr;
}

std::span<const BlockRef> EncodingRef::blocks() const { return encoding_->blocks; }

int64_t EncodingRef::num_tokens() const { return encoding_->num_tokens; }

EncodingCache::EncodingCache(const EncodingCacheConfig& config)
    : config_(config), pool_(config.total_blocks) {
  QUIPU_CHECK(config.block_tokens > 0, "blocks of {} tokens", config.block_tokens);
}

EncodingCache::~EncodingCache() {
  QUIPU_CHECK(unused_.size() == encodings_.size(), "{} encodings still held",
              encodings_.size() - unused_.size());
}

BlockKey EncodingCache::key(std::string_view salt, std::span<const TokenId> input) const {
  return block_key(root_key(config_.fingerprint + " input", salt), input);
}

bool EncodingCache::can_acquire(const BlockKey& key, int64_t tokens) const {
  return contains(key) || blocks_for(tokens) <= pool_.free_blocks() + unused_blocks_;
}

std::optional<EncodingCache::Acquired> EncodingCache::acquire(const BlockKey& key, int64_t tokens) {
  QUIPU_CHECK(tokens > 0, "an input of {} tokens", tokens);
  if (!can_acquire(key, tokens)) return std::nullopt;
  ++counters_.inputs_asked_for;
  if (const auto found = encodings_.find(key); found != encodings_.end()) {
    Encoding& encoding = *found->second;
    QUIPU_CHECK(encoding.num_tokens == tokens, "one key for inputs of {} and {} tokens",
                encoding.num_tokens, tokens);
    hold(encoding);
    ++counters_.inputs_reused;
    counters_.tokens_reused += tokens;
    return Acquired{EncodingRef(this, &encoding), true};
  }
  const int blocks = blocks_for(tokens);
  while (pool_.free_blocks() < blocks) evict(*unused_.front());
  auto made = std::make_unique<Encoding>();
  made->key = key;
  made->num_tokens = tokens;
  made->holders = 1;
  for (int i = 0; i < blocks; ++i) made->blocks.push_back(std::move(pool_.allocate()).value());
  Encoding& encoding = *made;
  encodings_.emplace(key, std::move(made));
  return Acquired{EncodingRef(this, &encoding), false};
}

void EncodingCache::hold(Encoding& encoding) {
  if (encoding.holders++ > 0) return;
  unused_.erase(encoding.unused);
  unused_blocks_ -= static_cast<int>(encoding.blocks.size());
}

void EncodingCache::drop(Encoding& encoding) {
  QUIPU_CHECK(encoding.holders > 0, "release of an encoding nobody holds");
  if (--encoding.holders > 0) return;
  encoding.unused = unused_.insert(unused_.end(), &encoding);
  unused_blocks_ += static_cast<int>(encoding.blocks.size());
  if (!config_.keep) evict(encoding);
}

void EncodingCache::evict(Encoding& encoding) {
  unused_blocks_ -= static_cast<int>(encoding.blocks.size());
  unused_.erase(encoding.unused);
  counters_.inputs_evicted += config_.keep;
  const BlockKey key = encoding.key;  // erase() ends the encoding that holds it
  encodings_.erase(key);
}

void EncodingCache::clear() {
  while (!unused_.empty()) evict(*unused_.front());
}

void EncodingCache::check_invariants() const {
  pool_.check_invariants();
  int blocks = 0, unused_blocks = 0;
  size_t unused = 0;
  for (const auto& [key, encoding] : encodings_) {
    const auto count = static_cast<int>(encoding->blocks.size());
    QUIPU_CHECK(key == encoding->key && count == blocks_for(encoding->num_tokens),
                "an encoding of {} tokens has {} blocks", encoding->num_tokens, count);
    for (const BlockRef& block : encoding->blocks)
      QUIPU_CHECK(block.valid() && block.unique(), "a block of an encoding is shared");
    blocks += count;
    if (encoding->holders > 0) continue;
    ++unused;
    unused_blocks += count;
    QUIPU_CHECK(*encoding->unused == encoding.get(), "an unused encoding is out of order");
  }
  QUIPU_CHECK(unused == unused_.size() && unused_blocks == unused_blocks_,
              "{} unused encodings in order, {} in all", unused_.size(), unused);
  QUIPU_CHECK(pool_.free_blocks() + blocks == pool_.total_blocks(),
              "{} free and {} held blocks of {}", pool_.free_blocks(), blocks,
              pool_.total_blocks());
}

}  // namespace quipu
