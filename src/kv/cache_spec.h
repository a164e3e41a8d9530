// KvCacheSpec: what one KV block holds, and how many bytes that is. The only place that counts
// them.
//
// bytes per token = sum over layers of kv_heads * (key_dim + value_dim) * bytes per element, the
// textbook 2 * layers * hidden * bytes with `hidden` replaced by what grouped heads really store.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/kv_layout.h"

namespace quipu {

// The keys and values that one layer caches for each token.
struct KvLayerShape {
  int kv_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
};

struct KvCacheSpec {
  int block_tokens = 0;
  std::vector<KvLayerView> layers;  // layouts with their offsets inside a block
  size_t block_bytes = 0;           // UNITS: bytes, a multiple of 64

  // UNITS: bytes for one token's keys and values in all layers, without padding.
  size_t bytes_per_token() const;
  int blocks_for_tokens(int64_t tokens) const {
    return static_cast<int>((tokens + block_tokens - 1) / block_tokens);
  }
};

inline constexpr int kDefaultBlockTokens = 32;

// REQUIRES: block_tokens is a power of two from 16 to 256.
KvCacheSpec make_kv_cache_spec(const std::vector<KvLayerShape>& layers, KvFormat format,
                               int block_tokens);

}  // namespace quipu
