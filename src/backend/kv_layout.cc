#include "backend/kv_layout.h"

#include <algorithm>

#include "base/check.h"
#include "base/units.h"

namespace quipu {

namespace {

constexpr size_t kAlign = 64;

// Floats of 4 or 2 bytes, as they are.
void lay_out_plain(KvLayerLayout& layout, size_t element_bytes, size_t tiles) {
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const size_t stored_key_dim =
      element_bytes == 4 ? layout.key_dim : round_up(static_cast<uint64_t>(layout.key_dim), 2);
  layout.key_tile_bytes = stored_key_dim * kKvTileTokens * element_bytes;
  layout.value_row_bytes = static_cast<size_t>(layout.value_dim) * element_bytes;
  layout.value_offset = round_up(tiles * layout.key_tile_bytes, kAlign);
  layout.used_bytes = tiles * layout.key_tile_bytes + block_tokens * layout.value_row_bytes;
  layout.head_bytes = layout.value_offset + round_up(block_tokens * layout.value_row_bytes, kAlign);
}

// The scales lie last: a kernel that reads whole vectors of the last values stays inside the head
// (4 * block_tokens bytes of scales, at least 64).
void lay_out_int8(KvLayerLayout& layout, size_t tiles) {
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const size_t scale_bytes = 2 * block_tokens;
  layout.key_tile_bytes = round_up(static_cast<uint64_t>(layout.key_dim), 4) * kKvTileTokens;
  layout.value_run_bytes = static_cast<size_t>(layout.value_dim) * 4;
  layout.value_offset = tiles * layout.key_tile_bytes;
  const size_t value_bytes = block_tokens / 4 * layout.value_run_bytes;
  layout.key_scale_offset = layout.value_offset + value_bytes;
  layout.value_scale_offset = layout.key_scale_offset + scale_bytes;
  layout.used_bytes = layout.value_scale_offset + scale_bytes;
  layout.head_bytes = round_up(layout.used_bytes, kAlign);
}

// As in int8, at least 64 bytes follow the values.
void lay_out_int4(KvLayerLayout& layout, size_t tiles) {
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const auto key_dim = static_cast<size_t>(layout.key_dim);
  const auto value_dim = static_cast<size_t>(layout.value_dim);
  for (size_t at = 0; at < key_dim; at += kKvKeyGroup) {
    const size_t quads = ceil_div(std::min<size_t>(kKvKeyGroup, key_dim - at), 4);
    layout.key_tile_bytes += (2 * 2 + 4 * ceil_div(quads, 2)) * kKvTileTokens;
  }
  const size_t value_scale_bytes = ceil_div(value_dim, kKvValueGroup) * block_tokens * 2;
  layout.value_run_bytes = value_dim * 4;
  layout.value_offset = tiles * layout.key_tile_bytes;
  layout.value_scale_offset = layout.value_offset + block_tokens / 8 * layout.value_run_bytes;
  layout.value_min_offset = layout.value_scale_offset + value_scale_bytes;
  layout.key_mean_offset = layout.value_min_offset + value_scale_bytes;
  layout.key_mean_bytes = round_up(key_dim, 4);
  layout.key_mean_scale_offset = layout.key_mean_offset + tiles * layout.key_mean_bytes;
  layout.used_bytes = layout.key_mean_scale_offset + tiles * 2;
  layout.head_bytes = round_up(layout.used_bytes, kAlign);
}

}  // namespace

std::string_view kv_format_name(KvFormat format) {
  switch (format) {
    case KvFormat::kF32: return "f32";
    case KvFormat::kBF16: return "bf16";
    case KvFormat::kInt8: return "int8";
    case KvFormat::kInt4: return "int4";
  }
  return "unknown";
}

std::optional<KvFormat> kv_format_from_name(std::string_view name) {
  for (const KvFormat format : kKvFormats) {
    if (kv_format_name(format) == name) return format;
  }
  return std::nullopt;
}

std::string kv_format_names() {
  std::string names;
  for (const KvFormat format : kKvFormats) {
    names += std::string(names.empty() ? "" : ", ") + std::string(kv_format_name(format));
  }
  return names;
}

KvLayerLayout make_kv_layer_layout(KvFormat format, int kv_heads, int key_dim, int value_dim,
                                   int block_tokens) {
  QUIPU_CHECK(kv_heads > 0 && key_dim > 0 && value_dim > 0, "kv_heads {}, key_dim {}, value_dim {}",
              kv_heads, key_dim, value_dim);
  QUIPU_CHECK(block_tokens > 0 && block_tokens % kKvTileTokens == 0, "block_tokens {}",
              block_tokens);
  KvLayerLayout layout;
  layout.format = format;
  layout.kv_heads = kv_heads;
  layout.key_dim = key_dim;
  layout.value_dim = value_dim;
  layout.block_tokens = block_tokens;
  const size_t tiles = static_cast<size_t>(block_tokens / kKvTileTokens);
  switch (format) {
    case KvFormat::kF32: lay_out_plain(layout, 4, tiles); break;
    case KvFormat::kBF16: lay_out_plain(layout, 2, tiles); break;
    case KvFormat::kInt8: lay_out_int8(layout, tiles); break;
    case KvFormat::kInt4: lay_out_int4(layout, tiles); break;
  }
  layout.layer_bytes = layout.head_bytes * static_cast<size_t>(kv_heads);
  return layout;
}

}  // namespace quipu
