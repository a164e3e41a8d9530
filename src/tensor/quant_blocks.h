// Byte layouts of quantised blocks, exactly as GGUF files store them.
//
// Little endian, no padding, alignment 2 or 1: a block may start at any even address of a memory
// map. `d`, `m`, `dmin` are IEEE halves. Element j of a block of 32 (simple types) or 256 (k
// types):
//
//   q8_0   d | q[32]                 x = d * q[j]                         q: -127..127 (-128 legal)
//   q4_0   d | qs[16]                x = d * (n - 8)                      n: nibble j
//   q4_1   d | m | qs[16]            x = d * n + m
//   q5_0   d | qh[4] | qs[16]        x = d * (n + 16 * bit j of qh - 16)
//   q5_1   d | m | qh[4] | qs[16]    x = d * (n + 16 * bit j of qh) + m
//     nibble j of qs: j < 16 the low half of qs[j], else the high half of qs[j - 16].
//
//   q4_k   d | dmin | scales[12] | qs[128]             x = d * sc * n - dmin * mn
//   q5_k   d | dmin | scales[12] | qh[32] | qs[128]    x = d * sc * (n + 16 * h) - dmin * mn
//     8 sub-blocks of 32, each with a 6-bit scale sc and a 6-bit minimum mn:
//       scales[0..3]  : sc of 0..3 in bits 0-5 | top 2 bits of sc of 4..7 in bits 6-7
//       scales[4..7]  : mn of 0..3 in bits 0-5 | top 2 bits of mn of 4..7 in bits 6-7
//       scales[8..11] : low 4 bits of sc of 4..7 in bits 0-3 | low 4 bits of mn of 4..7 in bits 4-7
//     Sub-blocks 2k and 2k+1 share qs[32k .. 32k+31]: low nibbles and high nibbles.
//     Bit s of qh[l] is h of element l of sub-block s.
//
//   q6_k   ql[128] | qh[64] | scales[16] | d           x = d * sc * (v - 32)
//     16 sub-blocks of 16 with a signed 8-bit scale each. Of each half (128 elements, ql 64 bytes,
//     qh 32 bytes), element 32 * g + l (g = 0..3, l = 0..31) has its low 4 bits in ql[l + 32 * (g %
//     2)] (low half for g < 2) and its high 2 bits in bits 2g, 2g+1 of qh[l].
//
// SOURCE: GGUF block formats as documented for ggml.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quipu {

inline constexpr size_t kSimpleBlock = 32;  // elements of a block of the simple types
inline constexpr size_t kSuperBlock = 256;  // elements of a block of the k types

struct BlockQ8_0 {
  uint16_t d;
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34 && alignof(BlockQ8_0) == 2);

struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18 && offsetof(BlockQ4_0, qs) == 2);

struct BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_1) == 20 && offsetof(BlockQ4_1, qs) == 4);

struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_0) == 22 && offsetof(BlockQ5_0, qs) == 6);

struct BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qh[4];
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_1) == 24 && offsetof(BlockQ5_1, qs) == 8);

struct BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ4_K) == 144 && offsetof(BlockQ4_K, qs) == 16);

struct BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ5_K) == 176 && offsetof(BlockQ5_K, qh) == 16 &&
              offsetof(BlockQ5_K, qs) == 48);

struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210 && offsetof(BlockQ6_K, scales) == 192 &&
              offsetof(BlockQ6_K, d) == 208);

// The 6-bit scale and minimum of sub-block `index` (0..7) of a q4_k or q5_k block.
struct ScaleMin {
  uint8_t scale;
  uint8_t min;
};

inline ScaleMin unpack_scale_min(const uint8_t scales[12], size_t index) {
  if (index < 4) {
    return {static_cast<uint8_t>(scales[index] & 63), static_cast<uint8_t>(scales[index + 4] & 63)};
  }
  const uint8_t low = scales[index + 4];
  return {static_cast<uint8_t>((low & 15) | (scales[index - 4] >> 6) << 4),
          static_cast<uint8_t>((low >> 4) | (scales[index] >> 6) << 4)};
}

// REQUIRES: values below 64; `scales` starts as zeros and indices are packed once each.
inline void pack_scale_min(uint8_t scales[12], size_t index, ScaleMin value) {
  if (index < 4) {
    scales[index] = static_cast<uint8_t>(scales[index] | value.scale);
    scales[index + 4] = static_cast<uint8_t>(scales[index + 4] | value.min);
    return;
  }
  scales[index + 4] = static_cast<uint8_t>((value.scale & 15) | (value.min & 15) << 4);
  scales[index - 4] = static_cast<uint8_t>(scales[index - 4] | (value.scale >> 4) << 6);
  scales[index] = static_cast<uint8_t>(scales[index] | (value.min >> 4) << 6);
}

}  // namespace quipu
