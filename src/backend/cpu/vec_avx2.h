// The 16-lane vector of the kernels in AVX2 with FMA and F16C: two registers.
// What each operation means is written in vec_scalar.h.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define QUIPU_INLINE inline __attribute__((always_inline))

namespace quipu::cpu {
namespace {

constexpr int kCodeTokens = block_of(4);
constexpr int kDotsTogether = 1;  // sums of a group side by side
constexpr int kFloatTiles = block_of(1), kFloatTokens = block_of(6);  // 12 sums of one register
constexpr int kValueRows = block_of(2), kValueVectors = block_of(2);  // 8 sums of one register
constexpr int kPeakChains = 6;  // independent sums, to cover the latency of a multiply-add
constexpr int kFewVectors = block_of(2);  // vectors of weighted values of at most two rows
constexpr size_t kPrefetchBytes = 768;

struct Vec {
  __m256 a, b;
};  // lanes 0..7, 8..15
struct IntVec {
  __m256i a, b;
};
struct Codes {
  __m256i v[8][2];
};

QUIPU_INLINE __m256i lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
// All ones in the first n of 8 lanes.
QUIPU_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane_numbers());
}

QUIPU_INLINE Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
QUIPU_INLINE Vec splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
QUIPU_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
QUIPU_INLINE void store(float* p, const Vec& x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
QUIPU_INLINE Vec load_part(const float* p, int n) {
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
QUIPU_INLINE void store_part(float* p, const Vec& x, int n) {
  _mm256_maskstore_ps(p, first_lanes(n), x.a);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.b);
}
QUIPU_INLINE Vec add(const Vec& x, const Vec& y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
QUIPU_INLINE Vec sub(const Vec& x, const Vec& y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
QUIPU_INLINE Vec mul(const Vec& x, const Vec& y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
QUIPU_INLINE Vec div(const Vec& x, const Vec& y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
QUIPU_INLINE Vec fma(const Vec& x, const Vec& y, const Vec& z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
QUIPU_INLINE Vec max(const Vec& x, const Vec& y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
QUIPU_INLINE Vec min(const Vec& x, const Vec& y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
QUIPU_INLINE Vec select_less(const Vec& x, const Vec& limit, const Vec& y, const Vec& z) {
  return {_mm256_blendv_ps(z.a, y.a, _mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(z.b, y.b, _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ))};
}
QUIPU_INLINE Vec select_lanes(int begin, int end, const Vec& x, const Vec& y) {
  const __m256 a = _mm256_castsi256_ps(_mm256_andnot_si256(first_lanes(begin), first_lanes(end)));
  const __m256 b =
      _mm256_castsi256_ps(_mm256_andnot_si256(first_lanes(begin - 8), first_lanes(end - 8)));
  return {_mm256_blendv_ps(y.a, x.a, a), _mm256_blendv_ps(y.b, x.b, b)};
}
QUIPU_INLINE Vec repeat_even(const Vec& x) {
  return {_mm256_moveldup_ps(x.a), _mm256_moveldup_ps(x.b)};
}
QUIPU_INLINE Vec repeat_odd(const Vec& x) {
  return {_mm256_movehdup_ps(x.a), _mm256_movehdup_ps(x.b)};
}
QUIPU_INLINE Vec quarter_turn(const Vec& x) {
  const __m256 even_signs = _mm256_castsi256_ps(_mm256_set1_epi64x(0x80000000LL));
  return {_mm256_xor_ps(_mm256_permute_ps(x.a, 0xB1), even_signs),
          _mm256_xor_ps(_mm256_permute_ps(x.b, 0xB1), even_signs)};
}
QUIPU_INLINE float reduce_add(const Vec& x) {
  const __m256 h = _mm256_add_ps(x.a, x.b);
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
QUIPU_INLINE float reduce_max(const Vec& x) {
  const __m256 h = _mm256_max_ps(x.a, x.b);
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
QUIPU_INLINE float first_lane(const Vec& x) { return _mm256_cvtss_f32(x.a); }

QUIPU_INLINE IntVec int_splat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
QUIPU_INLINE IntVec int_add(const IntVec& x, const IntVec& y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
QUIPU_INLINE Vec to_float(const IntVec& x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
QUIPU_INLINE IntVec round_to_int(const Vec& x) {
  return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
QUIPU_INLINE __m256 power_of_two_8(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
QUIPU_INLINE Vec power_of_two(const IntVec& n) {
  return {power_of_two_8(n.a), power_of_two_8(n.b)};
}
QUIPU_INLINE IntVec magnitude_bits(const Vec& x) {
  const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
  return {_mm256_and_si256(_mm256_castps_si256(x.a), mask),
          _mm256_and_si256(_mm256_castps_si256(x.b), mask)};
}
QUIPU_INLINE IntVec int_max(const IntVec& x, const IntVec& y) {
  return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
QUIPU_INLINE int32_t int_reduce_max(const IntVec& x) {
  const __m256i h = _mm256_max_epi32(x.a, x.b);
  __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}
QUIPU_INLINE int32_t int_reduce_add(const IntVec& x) {
  const __m256i h = _mm256_add_epi32(x.a, x.b);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}
QUIPU_INLINE void store_bytes(int8_t* p, const IntVec& x) {
  // packs works within 128-bit halves: order a0 b0 a1 b1 in quarters, then put them right.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

QUIPU_INLINE __m128i load_128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
QUIPU_INLINE __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
QUIPU_INLINE Vec load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 8))};
}
QUIPU_INLINE __m256 widen_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
QUIPU_INLINE Vec load_bf16(const uint16_t* p) {
  return {widen_bf16(load_128(p)), widen_bf16(load_128(p + 8))};
}
QUIPU_INLINE __m256i round_to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
  const __m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
}
QUIPU_INLINE void store_bf16(uint16_t* p, const Vec& x) {
  const __m256i words = _mm256_packus_epi32(round_to_bf16(x.a), round_to_bf16(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xD8));
}
QUIPU_INLINE Vec load_u8(const uint8_t* p) {
  const __m128i bytes = load_128(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
QUIPU_INLINE IntVec load_i8(const int8_t* p) {
  const __m128i bytes = load_128(p);
  return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
QUIPU_INLINE IntVec load_int(const void* p) {
  return {load_256(p), load_256(static_cast<const char*>(p) + 32)};
}
QUIPU_INLINE IntVec load_int_part(const void* p, int n) {
  const int* words = static_cast<const int*>(p);
  return {_mm256_maskload_epi32(words, first_lanes(n)),
          _mm256_maskload_epi32(words + 8, first_lanes(n - 8))};
}
QUIPU_INLINE IntVec int_and(const IntVec& x, const IntVec& y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
QUIPU_INLINE Vec pair_low(const IntVec& x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
}
QUIPU_INLINE Vec pair_high(const IntVec& x) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int32_t>(0xFFFF0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(x.a, mask)),
          _mm256_castsi256_ps(_mm256_and_si256(x.b, mask))};
}

// vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits, saturating. Full 8-bit
// codes would overflow: they become signed (code - 128), and |code| * (x with the code's sign) is
// at most 128 * 127 * 2 = 32512. The 128 * sum(x) that this leaves out is put into the start value.
template <int kBits>
QUIPU_INLINE void load_codes_8(const uint8_t* p, Codes& codes) {
  const __m256i flip = _mm256_set1_epi8(kBits == 8 ? static_cast<char>(0x80) : 0);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    codes.v[j][0] = _mm256_xor_si256(load_256(p + 64 * j), flip);
    codes.v[j][1] = _mm256_xor_si256(load_256(p + 64 * j + 32), flip);
  }
}
QUIPU_INLINE void load_codes_4(const uint8_t* p, Codes& codes) {
  const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const __m256i pairs = load_256(p + 32 * j);
    codes.v[j / 2][j % 2] = _mm256_and_si256(pairs, low);
    codes.v[j / 2 + 4][j % 2] = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), low);
  }
}
QUIPU_INLINE void load_codes_6(const uint8_t* p, Codes& codes) {
  load_codes_4(p, codes);
  const __m256i bits = _mm256_set1_epi8(0x30);
#pragma GCC unroll 4
  for (int h = 0; h < 4; ++h) {
    const __m256i plane = load_256(p + 256 + 32 * h);
    const __m256i shifted[4] = {_mm256_slli_epi16(plane, 4), _mm256_slli_epi16(plane, 2), plane,
                                _mm256_srli_epi16(plane, 2)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __m256i& code = codes.v[4 * (h / 2) + i][h % 2];
      code = _mm256_or_si256(code, _mm256_and_si256(shifted[i], bits));
    }
  }
}
template <int kBits>
QUIPU_INLINE IntVec start_group(const QuantGroup& x, ZeroPoint zero) {
  const int32_t sum = x.zero_sums[static_cast<int>(zero)];
  return int_splat(kBits == 8 ? sum - x.zero_sums[static_cast<int>(ZeroPoint::k128)] : sum);
}
template <int kBits>
QUIPU_INLINE __m256i multiply_codes(__m256i codes, __m256i x) {
  if constexpr (kBits == 8)
    return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
  return _mm256_maddubs_epi16(codes, x);
}
template <int kBits, int kFirst, int kLast, int kTogether>
QUIPU_INLINE void dot_codes(const Codes& codes, const QuantGroup* x, IntVec (&dots)[kTogether]) {
  // How many products of 2^kBits - 1 and 127, twice, fit in 16 bits.
  constexpr int kFit = kBits == 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
  constexpr int kRun = kFit < kLast - kFirst ? kFit : kLast - kFirst;
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
  for (int t = 0; t < kTogether; ++t) {
#pragma GCC unroll 8
    for (int j = kFirst; j < kLast; j += kRun) {
      __m256i a = _mm256_setzero_si256(), b = a;
#pragma GCC unroll 8
      for (int i = j; i < j + kRun; ++i) {
        int32_t quad;
        memcpy(&quad, x[t].codes + 4 * i, 4);
        const __m256i xs = _mm256_set1_epi32(quad);
        a = _mm256_add_epi16(a, multiply_codes<kBits>(codes.v[i][0], xs));
        b = _mm256_add_epi16(b, multiply_codes<kBits>(codes.v[i][1], xs));
      }
      dots[t].a = _mm256_add_epi32(dots[t].a, _mm256_madd_epi16(a, ones));
      dots[t].b = _mm256_add_epi32(dots[t].b, _mm256_madd_epi16(b, ones));
    }
  }
}
// Products and sums of 16 bits (they wrap here): what no exact product can be faster than.
QUIPU_INLINE IntVec peak_step(const IntVec& codes, const IntVec& x, const IntVec& sum) {
  return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(codes.a, x.a)),
          _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(codes.b, x.b))};
}
QUIPU_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

}  // namespace
}  // namespace quipu::cpu
