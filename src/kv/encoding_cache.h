// EncodingCache: what decoders know of encoded inputs: the keys and values of cross-attention.
//
// An encoder-decoder model reads its input once. What its decoder's cross-attention needs of it,
// keys and values of every decoder layer for every input token, lies in blocks of a pool of its own
// and never grows, however long the output gets:
//
//   decoder's own tokens   KvCache:        blocks | blocks | open ->      grows with the output
//   the input              EncodingCache:  blocks | blocks                fixed once encoded
//
// An encoding is found by its key: SHA-256 over fingerprint, salt and all tokens of the input
// (every token's encoding depends on every other, so there are no prefixes to share, only whole
// inputs). Sequences with equal inputs share one. When nobody holds it, it stays until its blocks
// are wanted; the one unused longest goes first.
//
// Invariants (check_invariants):
//   1. free blocks + blocks of all encodings == total_blocks;
//   2. an encoding is in the order of eviction exactly when nobody holds it;
//   3. holders are counted by EncodingRefs, which are move-only.
// Bookkeeping only: no KV byte is touched. THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/strong_id.h"
#include "kv/block_key.h"
#include "kv/block_pool.h"

namespace quipu {

struct EncodingCacheConfig {
  int total_blocks = 0;
  int block_tokens = 0;
  std::string fingerprint;  // of model and KV format: part of every key
  bool keep = true;         // false: an encoding goes when its last holder does
};

class EncodingCache;

// A holder's share of one encoding. REQUIRES: the cache outlives it.
class EncodingRef {
 public:
  EncodingRef() = default;
  EncodingRef(EncodingRef&& other) noexcept
      : cache_(std::exchange(other.cache_, nullptr)),
        encoding_(std::exchange(other.encoding_, nullptr)) {}
  EncodingRef& operator=(EncodingRef&& other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(encoding_, other.encoding_);
    return *this;
  }
  EncodingRef(const EncodingRef&) = delete;
  EncodingRef& operator=(const EncodingRef&) = delete;
  ~EncodingRef() { release(); }

  bool valid() const { return encoding_ != nullptr; }
  void release();

  // SHAPE: the input's blocks, in order. REQUIRES: valid().
  std::span<const BlockRef> blocks() const;
  int64_t num_tokens() const;

 private:
  friend class EncodingCache;
  struct Encoding;
  EncodingRef(EncodingCache* cache, Encoding* encoding) : cache_(cache), encoding_(encoding) {}

  EncodingCache* cache_ = nullptr;
  Encoding* encoding_ = nullptr;
};

// Totals since the start. UNITS: inputs or tokens, as named.
struct EncodingCounters {
  int64_t inputs_asked_for = 0;
  int64_t inputs_reused = 0;
  int64_t tokens_reused = 0;
  int64_t inputs_evicted = 0;
};

class EncodingCache {
 public:
  explicit EncodingCache(const EncodingCacheConfig& config);
  ~EncodingCache();
  EncodingCache(const EncodingCache&) = delete;
  EncodingCache& operator=(const EncodingCache&) = delete;

  BlockKey key(std::string_view salt, std::span<const TokenId> input) const;

  bool contains(const BlockKey& key) const { return encodings_.contains(key); }
  // Whether acquire() would succeed.
  bool can_acquire(const BlockKey& key, int64_t tokens) const;

  struct Acquired {
    EncodingRef encoding;
    bool encoded = false;  // by an earlier caller; otherwise this one must see to it
  };
  // The encoding of an input of `tokens` tokens: shared, or with blocks of its own, for which
  // unused encodings are evicted. Nothing, and nothing evicted, when holders have too many of them.
  std::optional<Acquired> acquire(const BlockKey& key, int64_t tokens);

  // Evicts everything that nobody holds.
  void clear();

  int block_tokens() const { return config_.block_tokens; }
  int total_blocks() const { return pool_.total_blocks(); }
  int free_blocks() const { return pool_.free_blocks(); }
  // Blocks of encodings that nobody holds.
  int unused_blocks() const { return unused_blocks_; }
  int num_encodings() const { return static_cast<int>(encodings_.size()); }
  // The longest input that fits. UNITS: tokens.
  int64_t input_limit() const { return int64_t{pool_.total_blocks()} * config_.block_tokens; }
  const EncodingCounters& counters() const { return counters_; }

  void check_invariants() const;

 private:
  friend class EncodingRef;
  using Encoding = EncodingRef::Encoding;

  int blocks_for(int64_t tokens) const {
    return static_cast<int>((tokens + config_.block_tokens - 1) / config_.block_tokens);
  }
  void hold(Encoding& encoding);
  void drop(Encoding& encoding);
  void evict(Encoding& encoding);

  EncodingCacheConfig config_;
  BlockPool pool_;
  std::map<BlockKey, std::unique_ptr<Encoding>> encodings_;  // after pool_: they hold blocks
  std::list<Encoding*> unused_;                              // longest unused first
  int unused_blocks_ = 0;
  EncodingCounters counters_;
};

}  // namespace quipu
