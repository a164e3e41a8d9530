#include "backend/kv_layout.h"

#include "base/check.h"
#include "base/units.h"

namespace quipu {

std::string_view kv_format_name(KvFormat format) {
  switch (format) {
    case KvFormat::kF32: return "f32";
    case KvFormat::kBF16: return "bf16";
  }
  return "unknown";
}

std::optional<KvFormat> kv_format_from_name(std::string_view name) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    if (kv_format_name(format) == name) return format;
  }
  return std::nullopt;
}

KvLayerLayout make_kv_layer_layout(KvFormat format, int kv_heads, int key_dim, int value_dim,
                                   int block_tokens) {
  QUIPU_CHECK(kv_heads > 0 && key_dim > 0 && value_dim > 0, "kv_heads {}, key_dim {}, value_dim {}",
              kv_heads, key_dim, value_dim);
  QUIPU_CHECK(block_tokens > 0 && block_tokens % kKvTileTokens == 0, "block_tokens {}",
              block_tokens);
  constexpr size_t kAlign = 64;
  KvLayerLayout layout;
  layout.format = format;
  layout.kv_heads = kv_heads;
  layout.key_dim = key_dim;
  layout.value_dim = value_dim;
  layout.block_tokens = block_tokens;
  const size_t element_bytes = format == KvFormat::kF32 ? 4 : 2;
  const size_t stored_key_dim = format == KvFormat::kF32 ? key_dim : round_up(key_dim, 2);
  const size_t tiles = static_cast<size_t>(block_tokens / kKvTileTokens);
  layout.key_tile_bytes = stored_key_dim * kKvTileTokens * element_bytes;
  layout.value_row_bytes = static_cast<size_t>(value_dim) * element_bytes;
  layout.value_offset = round_up(tiles * layout.key_tile_bytes, kAlign);
  layout.head_bytes = layout.value_offset + round_up(block_tokens * layout.value_row_bytes, kAlign);
  layout.layer_bytes = layout.head_bytes * kv_heads;
  return layout;
}

}  // namespace quipu
