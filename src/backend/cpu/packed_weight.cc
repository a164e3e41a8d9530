#include "backend/cpu/packed_weight.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/thread_pool.h"
#include "base/units.h"
#include "tensor/quant_blocks.h"

namespace quipu::cpu {

namespace {

PackTraits pack_traits(DType dtype) {
  constexpr size_t kScale = 2 * kLanes;
  constexpr size_t kSuperMin = 4 * kLanes + 2 * kSuperGroups * kLanes;
  constexpr size_t kSuperSigned = 2 * kLanes + 2 * kSuperGroups * kLanes;
  using enum BlockLayout;
  switch (dtype) {
    case DType::kF32: return {Pack::kF32, kF32, 1, 4 * kLanes, 0, false};
    case DType::kF16: return {Pack::kF16, kF32, 1, 2 * kLanes, 0, false};
    case DType::kBF16: return {Pack::kBf16, kBf16, 2, 4 * kLanes, 0, false};
    case DType::kQ8_0: return {Pack::kU8, kCodes, kGroup, 512, kScale, false, ZeroPoint::k128};
    case DType::kQ5_0: return {Pack::kU8, kCodes, kGroup, 512, kScale, false, ZeroPoint::k16};
    case DType::kQ5_1: return {Pack::kU8Min, kCodes, kGroup, 512, 2 * kScale, false};
    case DType::kQ4_0: return {Pack::kU4, kCodes, kGroup, 256, kScale, false, ZeroPoint::k8};
    case DType::kQ4_1: return {Pack::kU4Min, kCodes, kGroup, 256, 2 * kScale, false};
    case DType::kQ4_K: return {Pack::kU4K, kCodes, kGroup, 256, kSuperMin, true};
    case DType::kQ5_K: return {Pack::kU8K, kCodes, kGroup, 512, kSuperMin, true};
    case DType::kQ6_K: return {Pack::kU6K, kCodes, kGroup, 384, kSuperSigned, true};
  }
  QUIPU_CHECK(false, "no packing for type {}", static_cast<int>(dtype));
}

// Bytes of the scales of a block of so many groups.
size_t scales_bytes(const PackTraits& traits, size_t groups) {
  return round_up(traits.scale_bytes * (traits.super_scales ? 1 : groups), 64);
}

size_t block_bytes(const PackTraits& traits, size_t groups) {
  return scales_bytes(traits, groups) + groups * traits.column_bytes;
}

// UNITS: `k` as DotArgs::k.
size_t tile_bytes(const PackTraits& traits, size_t k) {
  if (traits.scale_bytes == 0) return round_up(k * traits.column_bytes, 64);
  const size_t rest = k % kSuperGroups;
  return k / kSuperGroups * block_bytes(traits, kSuperGroups) +
         (rest == 0 ? 0 : block_bytes(traits, rest));
}

const char* pack_name(Pack pack) {
  switch (pack) {
    case Pack::kF32: return "f32";
    case Pack::kF16: return "f16";
    case Pack::kBf16: return "bf16";
    case Pack::kU8: return "u8";
    case Pack::kU8Min: return "u8-min";
    case Pack::kU4: return "u4";
    case Pack::kU4Min: return "u4-min";
    case Pack::kU4K: return "u4-k";
    case Pack::kU8K: return "u8-k";
    case Pack::kU6K: return "u6-k";
  }
  return "unknown";
}

// One row's codes of one group of 32 and its parameters, whatever the stored type.
struct Group {
  uint8_t codes[kGroup];
  uint16_t scale = 0, minimum = 0;         // f16; of the super-block for k-quants
  uint8_t sub_scale = 0, sub_minimum = 0;  // q4_k, q5_k
  int8_t sub_signed[2] = {0, 0};           // q6_k: columns 0..15 and 16..31
};

uint8_t nibble(const uint8_t* qs, int j) {
  return j < 16 ? qs[j] & 15 : static_cast<uint8_t>(qs[j - 16] >> 4);
}

uint8_t high_bit(const uint8_t* qh, int j) {
  return static_cast<uint8_t>(((qh[j / 8] >> (j % 8)) & 1) << 4);
}

template <typename Block>
Block read_block(const std::byte* row, size_t index) {
  Block block;
  std::memcpy(&block, row + index * sizeof(Block), sizeof(Block));
  return block;
}

Group read_simple(DType dtype, const std::byte* row, size_t g) {
  Group out;
  if (dtype == DType::kQ8_0) {
    const auto block = read_block<BlockQ8_0>(row, g);
    out.scale = block.d;
    for (int j = 0; j < kGroup; ++j) out.codes[j] = static_cast<uint8_t>(block.q[j] + 128);
  } else if (dtype == DType::kQ4_0) {
    const auto block = read_block<BlockQ4_0>(row, g);
    out.scale = block.d;
    for (int j = 0; j < kGroup; ++j) out.codes[j] = nibble(block.qs, j);
  } else if (dtype == DType::kQ4_1) {
    const auto block = read_block<BlockQ4_1>(row, g);
    out.scale = block.d;
    out.minimum = block.m;
    for (int j = 0; j < kGroup; ++j) out.codes[j] = nibble(block.qs, j);
  } else if (dtype == DType::kQ5_0) {
    const auto block = read_block<BlockQ5_0>(row, g);
    out.scale = block.d;
    for (int j = 0; j < kGroup; ++j) out.codes[j] = nibble(block.qs, j) | high_bit(block.qh, j);
  } else {
    const auto block = read_block<BlockQ5_1>(row, g);
    out.scale = block.d;
    out.minimum = block.m;
    for (int j = 0; j < kGroup; ++j) out.codes[j] = nibble(block.qs, j) | high_bit(block.qh, j);
  }
  return out;
}

// Sub-block s of a q4_k or q5_k block: 32 nibbles of qs[32 (s / 2) ..], low halves for even s.
void read_sub_block(const uint8_t* qs, const uint8_t* scales, size_t s, Group& out) {
  const ScaleMin scale = unpack_scale_min(scales, s);
  out.sub_scale = scale.scale;
  out.sub_minimum = scale.min;
  const uint8_t* q = qs + 32 * (s / 2);
  for (int j = 0; j < kGroup; ++j) {
    out.codes[j] = s % 2 == 0 ? q[j] & 15 : static_cast<uint8_t>(q[j] >> 4);
  }
}

Group read_k(DType dtype, const std::byte* row, size_t g) {
  Group out;
  const size_t super = g / kSuperGroups, s = g % kSuperGroups;
  if (dtype == DType::kQ4_K) {
    const auto block = read_block<BlockQ4_K>(row, super);
    out.scale = block.d;
    out.minimum = block.dmin ^ 0x8000u;
    read_sub_block(block.qs, block.scales, s, out);
  } else if (dtype == DType::kQ5_K) {
    const auto block = read_block<BlockQ5_K>(row, super);
    out.scale = block.d;
    out.minimum = block.dmin ^ 0x8000u;
    read_sub_block(block.qs, block.scales, s, out);
    for (int j = 0; j < kGroup; ++j) {
      out.codes[j] = static_cast<uint8_t>(out.codes[j] | ((block.qh[j] >> s) & 1) << 4);
    }
  } else {
    const auto block = read_block<BlockQ6_K>(row, super);
    out.scale = block.d;
    out.sub_signed[0] = block.scales[2 * s];
    out.sub_signed[1] = block.scales[2 * s + 1];
    const size_t half = s / 4, quarter = s % 4;
    const uint8_t* ql = block.ql + 64 * half + 32 * (quarter % 2);
    const uint8_t* qh = block.qh + 32 * half;
    for (int j = 0; j < kGroup; ++j) {
      const int low = quarter < 2 ? ql[j] & 15 : ql[j] >> 4;
      out.codes[j] = static_cast<uint8_t>(low | ((qh[j] >> (2 * quarter)) & 3) << 4);
    }
  }
  return out;
}

// Writes one row's group into the code region of its tile.
void write_codes(Pack pack, const Group& group, size_t lane, uint8_t* codes) {
  const bool bytes = pack == Pack::kU8 || pack == Pack::kU8Min || pack == Pack::kU8K;
  for (size_t j = 0; j < 8; ++j) {
    for (size_t b = 0; b < 4; ++b) {
      const uint8_t code = group.codes[4 * j + b];
      if (bytes) {
        codes[64 * j + 4 * lane + b] = code;
        continue;
      }
      uint8_t& pair = codes[64 * (j % 4) + 4 * lane + b];
      const uint8_t low = code & 15;
      pair = static_cast<uint8_t>(pair | (j < 4 ? low : low << 4));
      if (pack == Pack::kU6K) {
        uint8_t& plane = codes[256 + 64 * (j / 4) + 4 * lane + b];
        plane = static_cast<uint8_t>(plane | (code >> 4) << (2 * (j % 4)));
      }
    }
  }
}

// Writes one row's scales of group g of a block.
void write_scales(const PackTraits& traits, const Group& group, size_t g, size_t lane,
                  uint8_t* scales) {
  const auto put_half = [](uint8_t* at, uint16_t value) { std::memcpy(at, &value, 2); };
  if (!traits.super_scales) {
    uint8_t* at = scales + g * traits.scale_bytes;
    put_half(at + 2 * lane, group.scale);
    if (traits.scale_bytes == 4 * kLanes) put_half(at + 2 * kLanes + 2 * lane, group.minimum);
    return;
  }
  uint8_t* at = scales;
  put_half(at + 2 * lane, group.scale);
  if (traits.pack == Pack::kU6K) {
    uint8_t* sub = at + 2 * kLanes + 2 * g * kLanes;
    std::memcpy(sub + lane, &group.sub_signed[0], 1);
    std::memcpy(sub + kLanes + lane, &group.sub_signed[1], 1);
    return;
  }
  put_half(at + 2 * kLanes + 2 * lane, group.minimum);
  at[(4 + g) * kLanes + lane] = group.sub_scale;
  at[(4 + kSuperGroups + g) * kLanes + lane] = group.sub_minimum;
}

void pack_quantised_row(DType dtype, const PackTraits& traits, const std::byte* row, size_t groups,
                        size_t lane, uint8_t* tile) {
  for (size_t g = 0; g < groups; ++g) {
    const Group group = traits.super_scales ? read_k(dtype, row, g) : read_simple(dtype, row, g);
    const size_t in_block = g % kSuperGroups, first = g - in_block;
    uint8_t* block = tile + first / kSuperGroups * block_bytes(traits, kSuperGroups);
    const size_t scales = scales_bytes(traits, std::min<size_t>(kSuperGroups, groups - first));
    write_scales(traits, group, in_block, lane, block);
    write_codes(traits.pack, group, lane, block + scales + in_block * traits.column_bytes);
  }
}

template <typename Element>
void pack_plain_row(const std::byte* row, size_t columns, size_t lane, uint8_t* tile) {
  for (size_t c = 0; c < columns; ++c) {
    std::memcpy(tile + (c * kLanes + lane) * sizeof(Element), row + c * sizeof(Element),
                sizeof(Element));
  }
}

void pack_bf16_row(const std::byte* row, size_t columns, size_t lane, uint8_t* tile) {
  for (size_t c = 0; c < columns; ++c) {
    std::memcpy(tile + ((c / 2 * kLanes + lane) * 2 + c % 2) * 2, row + 2 * c, 2);
  }
}

void pack_row(const TensorView& weight, const PackTraits& traits, size_t k, int64_t row,
              uint8_t* tile) {
  const size_t lane = static_cast<size_t>(row) % kLanes;
  const size_t columns = static_cast<size_t>(weight.columns());
  switch (traits.pack) {
    case Pack::kF32: return pack_plain_row<uint32_t>(weight.row(row), columns, lane, tile);
    case Pack::kF16: return pack_plain_row<uint16_t>(weight.row(row), columns, lane, tile);
    case Pack::kBf16: return pack_bf16_row(weight.row(row), columns, lane, tile);
    default: return pack_quantised_row(weight.dtype, traits, weight.row(row), k, lane, tile);
  }
}

}  // namespace

Result<std::unique_ptr<PackedWeight>> PackedWeight::create(const TensorView& weight,
                                                           WeightMemory& memory, ThreadPool& pool,
                                                           const KernelTable& kernels) {
  if (weight.shape.size() != 2 || weight.shape[0] < 1 || weight.shape[1] < 1) {
    return make_error(ErrorCode::kUnsupported,
                      "a linear weight needs two dimensions, found shape {}",
                      shape_to_string(weight.shape));
  }
  const size_t columns = static_cast<size_t>(weight.shape[1]);
  const size_t block = dtype_traits(weight.dtype).block_elements;
  if (columns % block != 0) {
    return make_error(ErrorCode::kUnsupported, "{} columns are not a multiple of {}'s block of {}",
                      columns, dtype_name(weight.dtype), block);
  }
  std::unique_ptr<PackedWeight> packed(new PackedWeight());
  packed->out_features_ = weight.shape[0];
  packed->in_features_ = weight.shape[1];
  packed->dtype_ = weight.dtype;
  packed->traits_ = pack_traits(weight.dtype);
  packed->dot_ = kernels.dot[static_cast<int>(packed->traits_.pack)];
  packed->isa_ = kernels.name;
  const PackTraits& traits = packed->traits_;
  packed->k_ = ceil_div(columns, traits.group);
  packed->tile_bytes_ = cpu::tile_bytes(traits, packed->k_);
  QUIPU_ASSIGN_OR_RETURN(auto run, memory.allocate(packed->bytes()));
  packed->slab_ = std::move(run.slab);
  packed->tiles_ = reinterpret_cast<uint8_t*>(run.data);

  // Each thread packs the tiles it will later read most, so their pages lie near it.
  const size_t tiles = packed->tile_count();
  uint8_t* bytes = packed->tiles_;
  pool.run([&](int thread, int threads) {
    const size_t first = tiles * static_cast<size_t>(thread) / static_cast<size_t>(threads);
    const size_t last = tiles * static_cast<size_t>(thread + 1) / static_cast<size_t>(threads);
    for (size_t tile = first; tile < last; ++tile) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const auto row = static_cast<int64_t>(tile * kLanes + lane);
        if (row >= packed->out_features_) break;
        pack_row(weight, traits, packed->k_, row, bytes + tile * packed->tile_bytes_);
      }
    }
  });
  return packed;
}

std::string PackedWeight::kernel() const {
  return std::string(isa_) + " " + pack_name(traits_.pack);
}

}  // namespace quipu::cpu
