// KvCacheSpec: what the KV blocks hold, and how many bytes that is. The only place that counts
// them.
//
// bytes per token = sum over layers of kv_heads * (key_dim + value_dim) * bytes per element, the
// textbook 2 * layers * hidden * bytes with `hidden` replaced by what grouped heads really store,
// and with the scales of quantised formats counted (backend/kv_layout.h).
//
// Layers with the same lifetime form a stream group with blocks and a pool of its own: those that
// see everything, those that see the last W tokens. Windowed layers count up to their window.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/kv_layout.h"
#include "kv/kv_formats.h"

namespace quipu {

// The keys and values that one layer caches for each token, and for how long.
struct KvLayerShape {
  int kv_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
  KvLifetime lifetime;
};

// What one block of a stream group holds.
struct KvGroupSpec {
  KvLifetime lifetime;
  int block_tokens = 0;
  std::vector<KvLayerView> layers;  // layouts with their offsets inside a block
  size_t block_bytes = 0;           // UNITS: bytes, a multiple of 64

  // UNITS: bytes for one token's keys, values and scales in the group's layers, without padding.
  size_t bytes_per_token() const;
};

struct KvCacheSpec {
  int block_tokens = 0;
  std::vector<KvGroupSpec> groups;   // the one that keeps everything, if any, comes first
  std::vector<KvLayerPlace> layers;  // SHAPE: [layers of the model]

  // UNITS: bytes for one new token's keys, values and scales in all layers, without padding.
  size_t bytes_per_token() const;
  // The format of every layer: "int8", or "0=bf16,1-4=int8,5=bf16".
  std::string formats() const;
  // UNITS: bytes of one block of every group.
  size_t block_bytes() const;
  // UNITS: bytes of the blocks that a sequence of `tokens` tokens holds at most when it grows by
  // `chunk` tokens at a time.
  uint64_t sequence_bytes(int64_t tokens, int chunk) const;
};

inline constexpr int kDefaultBlockTokens = 32;

// UNITS: blocks of block_tokens tokens.
inline int blocks_for_tokens(int64_t tokens, int block_tokens) {
  return static_cast<int>((tokens + block_tokens - 1) / block_tokens);
}

// The blocks at the beginning of a sequence that hold its sinks and so never leave a window.
inline int sink_blocks(const KvLifetime& lifetime, int block_tokens) {
  return blocks_for_tokens(lifetime.sinks, block_tokens);
}

// The most blocks that a sequence of up to `tokens` tokens holds in a group at once, when it grows
// by at most `chunk` tokens before its window slides: sinks, and a window and a chunk that start
// somewhere inside a block. UNITS: blocks.
int64_t blocks_held_max(const KvLifetime& lifetime, int block_tokens, int64_t tokens, int chunk);

// REQUIRES: block_tokens is a power of two from 16 to 256; formats.check() is ok for so many layers.
KvCacheSpec make_kv_cache_spec(std::span<const KvLayerShape> layers, const KvFormats& formats,
                               int block_tokens);

// Divides `bytes` among the groups. First comes one sequence of the whole context (or of as much of
// it as fits), growing by `chunk` tokens; what is left is divided in the proportion of sequences of
// kSharedSequenceTokens tokens, because caches serve many sequences that are shorter than the
// context, and each needs a window. SHAPE: result: blocks of each group; some 0 when `bytes` does
// not hold one block of each.
std::vector<int64_t> divide_kv_bytes(const KvCacheSpec& spec, uint64_t bytes, int64_t context,
                                     int chunk);
inline constexpr int64_t kSharedSequenceTokens = 8192;

}  // namespace quipu
