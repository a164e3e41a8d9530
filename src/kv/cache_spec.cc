#include "kv/cache_spec.h"

#include <bit>

#include "base/check.h"

namespace quipu {

KvCacheSpec make_kv_cache_spec(const std::vector<KvLayerShape>& layers, KvFormat format,
                               int block_tokens) {
  QUIPU_CHECK(block_tokens >= 16 && block_tokens <= 256 &&
                  std::has_single_bit(static_cast<unsigned>(block_tokens)),
              "block_tokens {}", block_tokens);
  KvCacheSpec spec;
  spec.block_tokens = block_tokens;
  for (const KvLayerShape& shape : layers) {
    const KvLayerLayout layout =
        make_kv_layer_layout(format, shape.kv_heads, shape.key_dim, shape.value_dim, block_tokens);
    spec.layers.push_back({layout, spec.block_bytes});
    spec.block_bytes += layout.layer_bytes;
  }
  return spec;
}

size_t KvCacheSpec::bytes_per_token() const {
  size_t bytes = 0;
  for (const KvLayerView& layer : layers) {
    const KvLayerLayout& layout = layer.layout;
    bytes += layout.kv_heads * (layout.key_tile_bytes / kKvTileTokens + layout.value_row_bytes);
  }
  return bytes;
}

}  // namespace quipu
