#include "backend/cpu/kv_write.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/hadamard.h"
#include "base/check.h"
#include "base/units.h"
#include "tensor/half.h"

namespace quipu::cpu {

namespace {

constexpr size_t kTile = kKvTileTokens;

struct Writer {
  const KernelTable& kernels;
  const CodeKernels& codes;
  const KvLayerLayout& layout;
  float* rotated;   // [the larger dimension]: also for rounded values
  float* mean;      // [key_dim]
  uint8_t* bytes;   // [the larger dimension rounded up to 16]

  size_t key_dim() const { return static_cast<size_t>(layout.key_dim); }
  size_t value_dim() const { return static_cast<size_t>(layout.value_dim); }
};

uint16_t load_u16(const std::byte* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
void store_u16(std::byte* p, uint16_t value) { std::memcpy(p, &value, sizeof(value)); }

// One token of one head: its key goes into lane `offset % 16` of its tile, its value into its run.
void write_key_plain(const Writer& w, std::byte* head, size_t offset, const float* k) {
  const size_t lane = offset % kTile;
  std::byte* tile = head + offset / kTile * w.layout.key_tile_bytes;
  if (w.layout.key_format == KvFormat::kF32) {
    w.kernels.pack_f32(k, w.key_dim(), reinterpret_cast<float*>(tile) + lane, kTile);
  } else {
    w.kernels.pack_bf16(k, w.key_dim(), reinterpret_cast<uint32_t*>(tile) + lane, kTile);
  }
}

void write_value_plain(const Writer& w, std::byte* head, size_t offset, const float* v) {
  const KvLayerLayout& layout = w.layout;
  std::byte* run =
      head + layout.value_offset + offset / layout.value_run_tokens * layout.value_run_bytes;
  if (layout.format == KvFormat::kF32) {
    std::memcpy(run, v, layout.value_run_bytes);
    return;
  }
  auto* rounded = reinterpret_cast<uint16_t*>(w.rotated);
  w.kernels.to_bf16(v, rounded, w.value_dim());
  auto* pairs = reinterpret_cast<uint16_t*>(run) + offset % 2;
  for (size_t d = 0; d < w.value_dim(); ++d) pairs[2 * d] = rounded[d];
}

void write_key_int8(const Writer& w, std::byte* head, size_t offset, const float* k) {
  const KvLayerLayout& layout = w.layout;
  EncodeArgs key{k, w.key_dim(), w.bytes, 0};
  w.codes.encode(key);
  std::byte* tile = head + offset / kTile * layout.key_tile_bytes;
  for (size_t d = 0; d < key.n; d += 4) {
    std::memcpy(tile + d * kTile + offset % kTile * 4, w.bytes + d, 4);
  }
  store_u16(head + layout.key_scale_offset + 2 * offset, key.scale);
}

void write_value_int8(const Writer& w, std::byte* head, size_t offset, const float* v) {
  const KvLayerLayout& layout = w.layout;
  EncodeArgs value{v, w.value_dim(), w.bytes, 0};
  w.codes.encode(value);
  std::byte* run = head + layout.value_offset + offset / 4 * layout.value_run_bytes + offset % 4;
  for (size_t d = 0; d < value.n; ++d) run[4 * d] = static_cast<std::byte>(w.bytes[d]);
  store_u16(head + layout.value_scale_offset + 2 * offset, value.scale);
}

// ---- int4 ---------------------------------------------------------------------------------------

// bf16 towards minus and plus infinity. REQUIRES: finite; away from the largest floats.
uint16_t bf16_below(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (bits >> 31 != 0) bits += 0xFFFFu;
  return static_cast<uint16_t>(bits >> 16);
}
uint16_t bf16_above(float x) { return bf16_below(-x) ^ 0x8000u; }

struct GroupScale {
  uint16_t scale, minimum;  // bf16
};

// Codes 0 to 15 of a group: x[i] is about minimum + codes[i] * scale. A group with a value that is
// not finite gets a NaN scale and minimum.
GroupScale encode_group(const float* x, size_t n, uint8_t* codes) {
  float lowest = x[0], highest = x[0], check = 0;
  for (size_t i = 0; i < n; ++i) {
    lowest = std::min(lowest, x[i]);
    highest = std::max(highest, x[i]);
    check += x[i] * 0.0f;  // NaN when a value is not finite
  }
  std::fill(codes, codes + n, uint8_t{0});
  if (std::isnan(check) || !std::isfinite(highest - lowest)) return {0x7FC0, 0x7FC0};
  GroupScale result{0, bf16_below(lowest)};
  const float minimum = bf16_to_f32(result.minimum);
  const float span = highest - minimum;
  if (span < 0x1p-100f) return result;  // one value for all
  result.scale = bf16_above(span / 15.0f);
  const float inverse = 1.0f / bf16_to_f32(result.scale);
  for (size_t i = 0; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(std::min((x[i] - minimum) * inverse + 0.5f, 15.0f));
  }
  return result;
}

// The mean of a tile's 16 keys as they are stored: minimum + code * scale + the tile's own mean.
void mean_of_tile(const Writer& w, const std::byte* head, size_t tile_index, float* mean) {
  const KvLayerLayout& layout = w.layout;
  const std::byte* group = head + tile_index * layout.key_tile_bytes;
  for (size_t begin = 0; begin < w.key_dim(); begin += kKvKeyGroup) {
    const size_t dims = std::min<size_t>(kKvKeyGroup, w.key_dim() - begin);
    const std::byte* codes = group + 4 * kTile;
    std::fill(mean + begin, mean + begin + dims, 0.0f);
    for (size_t lane = 0; lane < kTile; ++lane) {
      const float scale = bf16_to_f32(load_u16(group + 2 * lane));
      const float minimum = bf16_to_f32(load_u16(group + 2 * (kTile + lane)));
      for (size_t d = 0; d < dims; ++d) {
        const auto byte = static_cast<uint8_t>(codes[d / 8 * 4 * kTile + lane * 4 + d % 4]);
        const int code = d / 4 % 2 == 0 ? byte & 15 : byte >> 4;
        mean[begin + d] += minimum + static_cast<float>(code) * scale;
      }
    }
    group = codes + ceil_div(dims, 8) * 4 * kTile;
  }
  const std::byte* codes = head + layout.key_mean_offset + tile_index * layout.key_mean_bytes;
  const float scale = bf16_to_f32(load_u16(head + layout.key_mean_scale_offset + 2 * tile_index));
  for (size_t d = 0; d < w.key_dim(); ++d) {
    mean[d] = mean[d] * (1.0f / kTile) +
              static_cast<float>(static_cast<int>(codes[d]) - 128) * scale;
  }
}

// The mean that a tile's keys are stored without: of the tile before, or 0 for the first.
// `before`: the head of the block of the tile before, or null.
void write_mean(const Writer& w, std::byte* head, size_t tile_index, const std::byte* before,
                size_t tile_before) {
  const KvLayerLayout& layout = w.layout;
  if (before == nullptr) {
    std::fill(w.mean, w.mean + w.key_dim(), 0.0f);
  } else {
    mean_of_tile(w, before, tile_before, w.mean);
  }
  EncodeArgs args{w.mean, w.key_dim(), w.bytes, 0};
  w.codes.encode(args);
  std::memcpy(head + layout.key_mean_offset + tile_index * layout.key_mean_bytes, w.bytes,
              layout.key_mean_bytes);
  store_u16(head + layout.key_mean_scale_offset + 2 * tile_index, args.scale);
}

void write_key_int4(const Writer& w, std::byte* head, size_t offset, const float* k) {
  const KvLayerLayout& layout = w.layout;
  const size_t tile_index = offset / kTile, lane = offset % kTile;
  std::copy(k, k + w.key_dim(), w.rotated);
  rotate_hadamard(w.rotated, w.key_dim());
  const std::byte* mean = head + layout.key_mean_offset + tile_index * layout.key_mean_bytes;
  const float mean_scale =
      bf16_to_f32(load_u16(head + layout.key_mean_scale_offset + 2 * tile_index));
  for (size_t d = 0; d < w.key_dim(); ++d) {
    w.rotated[d] -= static_cast<float>(static_cast<int>(mean[d]) - 128) * mean_scale;
  }
  std::byte* group = head + tile_index * layout.key_tile_bytes;
  for (size_t begin = 0; begin < w.key_dim(); begin += kKvKeyGroup) {
    const size_t dims = std::min<size_t>(kKvKeyGroup, w.key_dim() - begin);
    uint8_t codes[kKvKeyGroup] = {};
    const GroupScale scale = encode_group(w.rotated + begin, dims, codes);
    store_u16(group + 2 * lane, scale.scale);
    store_u16(group + 2 * (kTile + lane), scale.minimum);
    group += 4 * kTile;
    for (size_t d = 0; d < dims; d += 8, group += 4 * kTile) {
      for (size_t i = 0; i < 4; ++i) {
        group[lane * 4 + i] = static_cast<std::byte>(codes[d + i] | codes[d + 4 + i] << 4);
      }
    }
  }
}

void write_value_int4(const Writer& w, std::byte* head, size_t offset, const float* v) {
  const KvLayerLayout& layout = w.layout;
  std::byte* run = head + layout.value_offset + offset / 8 * layout.value_run_bytes + offset % 4;
  const int shift = offset / 4 % 2 == 0 ? 0 : 4;
  const auto other = static_cast<std::byte>(0xF0 >> shift);  // the half of another token
  for (size_t begin = 0, g = 0; begin < w.value_dim(); begin += kKvValueGroup, ++g) {
    const size_t dims = std::min<size_t>(kKvValueGroup, w.value_dim() - begin);
    const GroupScale scale = encode_group(v + begin, dims, w.bytes);
    const size_t at = 2 * (g * static_cast<size_t>(layout.block_tokens) + offset);
    store_u16(head + layout.value_scale_offset + at, scale.scale);
    store_u16(head + layout.value_min_offset + at, scale.minimum);
    for (size_t d = 0; d < dims; ++d) {
      std::byte& byte = run[4 * (begin + d)];
      byte = (byte & other) | static_cast<std::byte>(w.bytes[d] << shift);
    }
  }
}

void write_key(const Writer& w, std::byte* head, size_t offset, const float* k) {
  switch (w.layout.key_format) {
    case KvFormat::kF32:
    case KvFormat::kBF16: return write_key_plain(w, head, offset, k);
    case KvFormat::kInt8: return write_key_int8(w, head, offset, k);
    case KvFormat::kInt4: return write_key_int4(w, head, offset, k);
  }
}

void write_value(const Writer& w, std::byte* head, size_t offset, const float* v) {
  switch (w.layout.format) {
    case KvFormat::kF32:
    case KvFormat::kBF16: return write_value_plain(w, head, offset, v);
    case KvFormat::kInt8: return write_value_int8(w, head, offset, v);
    case KvFormat::kInt4: return write_value_int4(w, head, offset, v);
  }
}

}  // namespace

size_t kv_write_scratch_bytes(const KvLayerLayout& layout) {
  const size_t dim = round_up(static_cast<uint64_t>(std::max(layout.key_dim, layout.value_dim)), 64);
  return dim * (2 * sizeof(float) + 1);
}

void write_heads(const KvWriteArgs& args, const KernelTable& kernels, const CodeKernels& codes,
                 size_t first, size_t last, std::byte* scratch) {
  const KvLayerView& view = args.kv.layers[args.layer];
  const KvLayerLayout& layout = view.layout;
  const size_t dim = round_up(static_cast<uint64_t>(std::max(layout.key_dim, layout.value_dim)), 64);
  auto* floats = reinterpret_cast<float*>(scratch);
  const Writer w{kernels, codes,        layout,
                 floats,  floats + dim, reinterpret_cast<uint8_t*>(floats + 2 * dim)};
  const auto block_tokens = static_cast<size_t>(args.kv.block_tokens);
  const bool has_means = layout.key_format == KvFormat::kInt4;
  QUIPU_CHECK(!has_means || args.sequences > 0, "int4 needs positions and block tables");
  const auto head_of = [&](size_t block, size_t h) {
    return args.kv.base + block * args.kv.block_bytes + view.offset_in_block +
           h * layout.head_bytes;
  };
  for (size_t h = first; h < last; ++h) {
    size_t sequence = 0;
    for (size_t t = 0; t < args.tokens; ++t) {
      const auto slot = static_cast<size_t>(args.slot_mapping[t]);
      std::byte* head = head_of(slot / block_tokens, h);
      const size_t offset = slot % block_tokens;
      const float* k = args.k + t * args.k_stride + h * w.key_dim();
      const float* v = args.v + t * args.v_stride + h * w.value_dim();
      if (has_means && offset % kTile == 0) {
        while (args.query_start[sequence + 1] <= static_cast<int32_t>(t)) ++sequence;
        const auto position = static_cast<size_t>(args.positions[t]);
        const std::byte* before = nullptr;
        size_t offset_before = 0;
        if (position >= kTile) {
          // The token before is in any window, and its block with it.
          const int32_t* table = args.block_tables + sequence * args.block_table_stride;
          const auto gap =
              static_cast<size_t>(args.block_gaps == nullptr ? 0 : args.block_gaps[sequence]);
          offset_before = (position - kTile) % block_tokens;
          before = head_of(static_cast<size_t>(table[(position - kTile) / block_tokens - gap]), h);
        }
        write_mean(w, head, offset / kTile, before, offset_before / kTile);
      }
      write_key(w, head, offset, k);
      write_value(w, head, offset, v);
    }
  }
}

}  // namespace quipu::cpu
