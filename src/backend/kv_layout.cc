#include "backend/kv_layout.h"

#include <algorithm>

#include "base/check.h"
#include "base/units.h"

namespace quipu {

namespace {

constexpr size_t kAlign = 64;

size_t key_tile_bytes(const KvLayerLayout& layout) {
  const auto dim = static_cast<size_t>(layout.key_dim);
  switch (layout.key_format) {
    case KvFormat::kF32: return dim * kKvTileTokens * 4;
    case KvFormat::kBF16: return round_up(dim, 2) * kKvTileTokens * 2;
    case KvFormat::kInt8: return round_up(dim, 4) * kKvTileTokens;
    case KvFormat::kInt4: break;
  }
  size_t bytes = 0;
  for (size_t at = 0; at < dim; at += kKvKeyGroup) {
    const size_t quads = ceil_div(std::min<size_t>(kKvKeyGroup, dim - at), 4);
    bytes += (2 * 2 + 4 * ceil_div(quads, 2)) * kKvTileTokens;
  }
  return bytes;
}

// Floats as they are, in words of 4 bytes: one element of one token (f32) or of two (bf16).
void lay_out_plain(KvLayerLayout& layout, size_t run_tokens, size_t tiles) {
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  layout.value_run_tokens = run_tokens;
  layout.value_run_bytes = static_cast<size_t>(layout.value_dim) * 4;
  const size_t value_bytes = block_tokens / run_tokens * layout.value_run_bytes;
  layout.value_offset = round_up(tiles * layout.key_tile_bytes, kAlign);
  layout.used_bytes = tiles * layout.key_tile_bytes + value_bytes;
  layout.head_bytes = layout.value_offset + round_up(value_bytes, kAlign);
}

// The scales lie last. A kernel reads whole vectors of the last values: 64 bytes follow them.
void lay_out_int8(KvLayerLayout& layout, size_t tiles) {
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const size_t scale_bytes = 2 * block_tokens;
  layout.value_run_tokens = 4;
  layout.value_run_bytes = static_cast<size_t>(layout.value_dim) * 4;
  layout.value_offset = tiles * layout.key_tile_bytes;
  const size_t values_end = layout.value_offset + block_tokens / 4 * layout.value_run_bytes;
  layout.key_scale_offset = values_end;
  layout.value_scale_offset =
      values_end + (layout.key_format == KvFormat::kInt8 ? scale_bytes : 0);
  layout.used_bytes = layout.value_scale_offset + scale_bytes;
  layout.head_bytes = round_up(std::max(layout.used_bytes, values_end + kAlign), kAlign);
}

// As in int8, at least 64 bytes follow the values.
void lay_out_int4(KvLayerLayout& layout, size_t tiles) {
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const auto key_dim = static_cast<size_t>(layout.key_dim);
  const auto value_dim = static_cast<size_t>(layout.value_dim);
  const size_t value_scale_bytes = ceil_div(value_dim, kKvValueGroup) * block_tokens * 2;
  layout.value_run_tokens = 8;
  layout.value_run_bytes = value_dim * 4;
  layout.value_offset = tiles * layout.key_tile_bytes;
  layout.value_scale_offset = layout.value_offset + block_tokens / 8 * layout.value_run_bytes;
  layout.value_min_offset = layout.value_scale_offset + value_scale_bytes;
  layout.key_mean_offset = layout.value_min_offset + value_scale_bytes;
  const bool has_means = layout.key_format == KvFormat::kInt4;
  layout.key_mean_bytes = has_means ? round_up(key_dim, 4) : 0;
  layout.key_mean_scale_offset = layout.key_mean_offset + tiles * layout.key_mean_bytes;
  layout.used_bytes = layout.key_mean_scale_offset + (has_means ? tiles * 2 : 0);
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
  layout.key_format = kv_format_has_codes(format) && key_dim < kKvCodedKeyDim ? KvFormat::kBF16
                                                                              : format;
  layout.kv_heads = kv_heads;
  layout.key_dim = key_dim;
  layout.value_dim = value_dim;
  layout.block_tokens = block_tokens;
  const size_t tiles = static_cast<size_t>(block_tokens / kKvTileTokens);
  layout.key_tile_bytes = key_tile_bytes(layout);
  switch (format) {
    case KvFormat::kF32: lay_out_plain(layout, 1, tiles); break;
    case KvFormat::kBF16: lay_out_plain(layout, 2, tiles); break;
    case KvFormat::kInt8: lay_out_int8(layout, tiles); break;
    case KvFormat::kInt4: lay_out_int4(layout, tiles); break;
  }
  layout.layer_bytes = layout.head_bytes * static_cast<size_t>(kv_heads);
  return layout;
}

}  // namespace quipu
