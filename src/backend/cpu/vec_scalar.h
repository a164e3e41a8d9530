// The 16-lane vector of the kernels in plain C++: the definition of what each operation means, and
// the oracle of the other sets. It has no fused multiply-add: products and sums round apart.
//
// vec_avx2.h and vec_avx512.h define the same names. Everything has internal linkage.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define QUIPU_INLINE inline __attribute__((always_inline))

namespace quipu::cpu {
namespace {

// Blocking of the dot kernels: how many sums stay in registers.
constexpr int kCodeTokens = block_of(4);  // tokens of one quantised tile
constexpr int kDotsTogether = 1;  // sums of a group side by side
constexpr int kFloatTiles = block_of(2),
              kFloatTokens = block_of(2);  // tiles and tokens of plain products
constexpr int kValueRows = block_of(2),
              kValueVectors = block_of(2);  // rows and vectors of weighted values
constexpr int kPeakChains = 3;  // independent sums, to cover the latency of a multiply-add
constexpr int kFewVectors = block_of(2);  // vectors of weighted values of at most two rows
constexpr size_t kPrefetchBytes = 2048;

struct Vec {
  float v[kLanes];
};
struct IntVec {
  int32_t v[kLanes];
};
// The codes of 16 rows and 32 columns: quad j, row r, byte b = column 4 j + b.
struct Codes {
  uint8_t v[8][64];
};

#define QUIPU_LANES for (int i = 0; i < kLanes; ++i)

QUIPU_INLINE Vec zero() {
  Vec r;
  QUIPU_LANES r.v[i] = 0.0f;
  return r;
}
QUIPU_INLINE Vec splat(float x) {
  Vec r;
  QUIPU_LANES r.v[i] = x;
  return r;
}
QUIPU_INLINE Vec load(const float* p) {
  Vec r;
  QUIPU_LANES r.v[i] = p[i];
  return r;
}
QUIPU_INLINE void store(float* p, const Vec& a) { QUIPU_LANES p[i] = a.v[i]; }
// The first n lanes; the others read as zero and are not written.
QUIPU_INLINE Vec load_part(const float* p, int n) {
  Vec r = zero();
  for (int i = 0; i < n; ++i) r.v[i] = p[i];
  return r;
}
QUIPU_INLINE void store_part(float* p, const Vec& a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
QUIPU_INLINE Vec add(const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i] + b.v[i];
  return r;
}
QUIPU_INLINE Vec sub(const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i] - b.v[i];
  return r;
}
QUIPU_INLINE Vec mul(const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i] * b.v[i];
  return r;
}
QUIPU_INLINE Vec div(const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i] / b.v[i];
  return r;
}
// a * b + c
QUIPU_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i] * b.v[i] + c.v[i];
  return r;
}
// The second operand when either is NaN.
QUIPU_INLINE Vec max(const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return r;
}
QUIPU_INLINE Vec min(const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return r;
}
// a where x < limit, else b.
QUIPU_INLINE Vec select_less(const Vec& x, const Vec& limit, const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = x.v[i] < limit.v[i] ? a.v[i] : b.v[i];
  return r;
}
// a in lanes [begin, end), else b.
QUIPU_INLINE Vec select_lanes(int begin, int end, const Vec& a, const Vec& b) {
  Vec r;
  QUIPU_LANES r.v[i] = (i >= begin && i < end) ? a.v[i] : b.v[i];
  return r;
}
// Of pairs (a, b): (a, a), (b, b), and (-b, a).
QUIPU_INLINE Vec repeat_even(const Vec& a) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i & ~1];
  return r;
}
QUIPU_INLINE Vec repeat_odd(const Vec& a) {
  Vec r;
  QUIPU_LANES r.v[i] = a.v[i | 1];
  return r;
}
QUIPU_INLINE Vec quarter_turn(const Vec& a) {
  Vec r;
  for (int i = 0; i < kLanes; i += 2) {
    r.v[i] = -a.v[i + 1];
    r.v[i + 1] = a.v[i];
  }
  return r;
}
// The order of every horizontal sum: halves, then halves again.
QUIPU_INLINE float reduce_add(const Vec& a) {
  float h[8], q[4];
  for (int i = 0; i < 8; ++i) h[i] = a.v[i] + a.v[i + 8];
  for (int i = 0; i < 4; ++i) q[i] = h[i] + h[i + 4];
  return (q[0] + q[2]) + (q[1] + q[3]);
}
QUIPU_INLINE float reduce_max(const Vec& a) {
  float m = a.v[0];
  for (int i = 1; i < kLanes; ++i) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
QUIPU_INLINE float first_lane(const Vec& a) { return a.v[0]; }

QUIPU_INLINE IntVec int_splat(int32_t x) {
  IntVec r;
  QUIPU_LANES r.v[i] = x;
  return r;
}
QUIPU_INLINE IntVec int_add(const IntVec& a, const IntVec& b) {
  IntVec r;
  QUIPU_LANES r.v[i] = a.v[i] + b.v[i];
  return r;
}
QUIPU_INLINE Vec to_float(const IntVec& a) {
  Vec r;
  QUIPU_LANES r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
// Round to nearest even. REQUIRES: |a| < 2^22 for a meaningful result.
QUIPU_INLINE IntVec round_to_int(const Vec& a) {
  IntVec r;
  QUIPU_LANES {
    const float shifted = a.v[i] + 12582912.0f;  // 1.5 * 2^23: the integer lands in the mantissa
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    r.v[i] = static_cast<int32_t>(static_cast<uint32_t>(bits) - 0x4B400000u);
  }
  return r;
}
// 2^n. REQUIRES: -126 <= n <= 128 (128 gives infinity).
QUIPU_INLINE Vec power_of_two(const IntVec& n) {
  Vec r;
  QUIPU_LANES {
    const uint32_t bits = static_cast<uint32_t>(n.v[i] + 127) << 23;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
// |a| as its bits, and their largest: NaN counts as larger than infinity.
QUIPU_INLINE IntVec magnitude_bits(const Vec& a) {
  IntVec r;
  QUIPU_LANES {
    uint32_t bits;
    memcpy(&bits, &a.v[i], 4);
    r.v[i] = static_cast<int32_t>(bits & 0x7FFFFFFFu);
  }
  return r;
}
QUIPU_INLINE IntVec int_max(const IntVec& a, const IntVec& b) {
  IntVec r;
  QUIPU_LANES r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return r;
}
QUIPU_INLINE int32_t int_reduce_max(const IntVec& a) {
  int32_t m = a.v[0];
  for (int i = 1; i < kLanes; ++i) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
QUIPU_INLINE int32_t int_reduce_add(const IntVec& a) {
  int32_t s = 0;
  QUIPU_LANES s += a.v[i];
  return s;
}
// The low bytes of 16 integers that fit.
QUIPU_INLINE void store_bytes(int8_t* p, const IntVec& a) {
  QUIPU_LANES p[i] = static_cast<int8_t>(a.v[i]);
}

QUIPU_INLINE float half_to_float(uint16_t h) {
  // Shift into the f32 exponent, then scale by 2^112: exact for normal and subnormal halves alike.
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t bits = static_cast<uint32_t>(h & 0x7FFFu) << 13;
  float magnitude;
  memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;
  memcpy(&bits, &magnitude, 4);
  if ((h & 0x7C00u) == 0x7C00u) bits = 0x7F800000u | static_cast<uint32_t>(h & 0x3FFu) << 13;
  bits |= sign;
  memcpy(&magnitude, &bits, 4);
  return magnitude;
}
QUIPU_INLINE Vec load_f16(const uint16_t* p) {
  Vec r;
  QUIPU_LANES r.v[i] = half_to_float(p[i]);
  return r;
}
QUIPU_INLINE Vec load_bf16(const uint16_t* p) {
  Vec r;
  QUIPU_LANES {
    const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
// Rounded to the nearest, halves to even; NaN stays NaN.
QUIPU_INLINE uint16_t bf16_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return static_cast<uint16_t>(nan ? (bits >> 16) | 0x40u
                                   : (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
QUIPU_INLINE void store_bf16(uint16_t* p, const Vec& a) {
  uint16_t words[kLanes];  // p may lie in what a was loaded from
  QUIPU_LANES words[i] = bf16_bits(a.v[i]);
  memcpy(p, words, sizeof(words));
}
QUIPU_INLINE Vec load_u8(const uint8_t* p) {
  Vec r;
  QUIPU_LANES r.v[i] = static_cast<float>(p[i]);
  return r;
}
QUIPU_INLINE IntVec load_i8(const int8_t* p) {
  IntVec r;
  QUIPU_LANES r.v[i] = p[i];
  return r;
}
QUIPU_INLINE IntVec load_int(const void* p) {
  IntVec r;
  memcpy(&r, p, sizeof(r));
  return r;
}
QUIPU_INLINE IntVec load_int_part(const void* p, int n) {
  IntVec r{};
  if (n > 0) memcpy(&r, p, 4 * static_cast<size_t>(n < kLanes ? n : kLanes));
  return r;
}
QUIPU_INLINE IntVec int_and(const IntVec& a, const IntVec& b) {
  IntVec r;
  QUIPU_LANES r.v[i] = a.v[i] & b.v[i];
  return r;
}

// Pairs of bf16: the even element is the low half.
QUIPU_INLINE Vec pair_low(const IntVec& a) {
  Vec r;
  QUIPU_LANES {
    const uint32_t bits = static_cast<uint32_t>(a.v[i]) << 16;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
QUIPU_INLINE Vec pair_high(const IntVec& a) {
  Vec r;
  QUIPU_LANES {
    const uint32_t bits = static_cast<uint32_t>(a.v[i]) & 0xFFFF0000u;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}

template <int kBits>
QUIPU_INLINE void load_codes_8(const uint8_t* p, Codes& codes) {
  memcpy(codes.v, p, 512);
}
QUIPU_INLINE void load_codes_4(const uint8_t* p, Codes& codes) {
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < 64; ++i) {
      codes.v[j][i] = p[64 * j + i] & 15;
      codes.v[j + 4][i] = p[64 * j + i] >> 4;
    }
  }
}
// Nibbles as above, then two planes of 64 bytes: bits 2 i, 2 i + 1 of plane h are the high bits of
// quad 4 h + i.
QUIPU_INLINE void load_codes_6(const uint8_t* p, Codes& codes) {
  load_codes_4(p, codes);
  for (int j = 0; j < 8; ++j) {
    const uint8_t* plane = p + 256 + 64 * (j / 4);
    for (int i = 0; i < 64; ++i) {
      codes.v[j][i] = static_cast<uint8_t>(codes.v[j][i] | ((plane[i] >> (2 * (j % 4))) & 3) << 4);
    }
  }
}
// What the integer sum of a group starts with: -zero point * sum of the activations.
template <int kBits>
QUIPU_INLINE IntVec start_group(const QuantGroup& x, ZeroPoint zero) {
  return int_splat(x.zero_sums[static_cast<int>(zero)]);
}
// Adds to each sum the dot product of quads [kFirst, kLast) with its token's. kBits: most bits a
// code has.
template <int kBits, int kFirst, int kLast, int kTogether>
QUIPU_INLINE void dot_codes(const Codes& codes, const QuantGroup* x, IntVec (&dots)[kTogether]) {
  for (int t = 0; t < kTogether; ++t) {
    for (int j = kFirst; j < kLast; ++j) {
      for (int i = 0; i < kLanes; ++i) {
        const uint8_t* c = codes.v[j] + 4 * i;
        const int8_t* y = x[t].codes + 4 * j;
        dots[t].v[i] += c[0] * y[0] + c[1] * y[1] + c[2] * y[2] + c[3] * y[3];
      }
    }
  }
}
// 64 products, for measuring the peak.
QUIPU_INLINE IntVec peak_step(const IntVec& codes, const IntVec& x, const IntVec& sum) {
  IntVec r = sum;
  for (int i = 0; i < kLanes; ++i) {
    for (int b = 0; b < 32; b += 8) {
      r.v[i] += ((codes.v[i] >> b) & 255) * static_cast<int8_t>(x.v[i] >> b);
    }
  }
  return r;
}
QUIPU_INLINE void prefetch(const void*) {}

#undef QUIPU_LANES

}  // namespace
}  // namespace quipu::cpu
