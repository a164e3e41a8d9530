// The 16-lane vector of the kernels in AVX-512 (F, BW, DQ, VL and VNNI): one register.
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

constexpr int kCodeTokens = block_of(16);  // 16 sums, 8 registers of codes
constexpr int kDotsTogether = 4;           // sums of a group side by side, to cover their latency
constexpr int kFloatTiles = block_of(2), kFloatTokens = block_of(8);  // 16 sums
constexpr int kValueRows = block_of(4), kValueVectors = block_of(4);  // 16 sums
constexpr int kPeakChains = 12;  // independent sums, to cover the latency of a multiply-add
constexpr int kFewVectors = block_of(8);  // vectors of weighted values of at most two rows
constexpr size_t kPrefetchBytes = 768;

struct Vec {
  __m512 v;
};
struct IntVec {
  __m512i v;
};
struct Codes {
  __m512i v[8];
};

QUIPU_INLINE __mmask16 first_lanes(int n) {
  const int bounded = n < 0 ? 0 : (n > kLanes ? kLanes : n);
  return static_cast<__mmask16>((1u << bounded) - 1u);
}

QUIPU_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
QUIPU_INLINE Vec splat(float x) { return {_mm512_set1_ps(x)}; }
QUIPU_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
QUIPU_INLINE void store(float* p, const Vec& a) { _mm512_storeu_ps(p, a.v); }
QUIPU_INLINE Vec load_part(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
QUIPU_INLINE void store_part(float* p, const Vec& a, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
QUIPU_INLINE Vec add(const Vec& a, const Vec& b) { return {_mm512_add_ps(a.v, b.v)}; }
QUIPU_INLINE Vec sub(const Vec& a, const Vec& b) { return {_mm512_sub_ps(a.v, b.v)}; }
QUIPU_INLINE Vec mul(const Vec& a, const Vec& b) { return {_mm512_mul_ps(a.v, b.v)}; }
QUIPU_INLINE Vec div(const Vec& a, const Vec& b) { return {_mm512_div_ps(a.v, b.v)}; }
QUIPU_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
QUIPU_INLINE Vec max(const Vec& a, const Vec& b) { return {_mm512_max_ps(a.v, b.v)}; }
QUIPU_INLINE Vec min(const Vec& a, const Vec& b) { return {_mm512_min_ps(a.v, b.v)}; }
QUIPU_INLINE Vec select_less(const Vec& x, const Vec& limit, const Vec& a, const Vec& b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), b.v, a.v)};
}
QUIPU_INLINE Vec select_lanes(int begin, int end, const Vec& a, const Vec& b) {
  const auto mask = static_cast<__mmask16>(first_lanes(end) & ~first_lanes(begin));
  return {_mm512_mask_blend_ps(mask, b.v, a.v)};
}
QUIPU_INLINE Vec repeat_even(const Vec& a) { return {_mm512_moveldup_ps(a.v)}; }
QUIPU_INLINE Vec repeat_odd(const Vec& a) { return {_mm512_movehdup_ps(a.v)}; }
QUIPU_INLINE Vec quarter_turn(const Vec& a) {
  const __m512 even_signs = _mm512_castsi512_ps(_mm512_set1_epi64(0x80000000LL));
  return {_mm512_xor_ps(_mm512_permute_ps(a.v, 0xB1), even_signs)};
}
QUIPU_INLINE float reduce_add(const Vec& a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
QUIPU_INLINE float reduce_max(const Vec& a) { return _mm512_reduce_max_ps(a.v); }
QUIPU_INLINE float first_lane(const Vec& a) { return _mm512_cvtss_f32(a.v); }

QUIPU_INLINE IntVec int_splat(int32_t x) { return {_mm512_set1_epi32(x)}; }
QUIPU_INLINE IntVec int_add(const IntVec& a, const IntVec& b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
QUIPU_INLINE Vec to_float(const IntVec& a) { return {_mm512_cvtepi32_ps(a.v)}; }
QUIPU_INLINE IntVec round_to_int(const Vec& a) { return {_mm512_cvtps_epi32(a.v)}; }
QUIPU_INLINE Vec power_of_two(const IntVec& n) {
  return {
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
QUIPU_INLINE IntVec magnitude_bits(const Vec& a) {
  return {_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7FFFFFFF))};
}
QUIPU_INLINE IntVec int_max(const IntVec& a, const IntVec& b) {
  return {_mm512_max_epi32(a.v, b.v)};
}
QUIPU_INLINE int32_t int_reduce_max(const IntVec& a) { return _mm512_reduce_max_epi32(a.v); }
QUIPU_INLINE int32_t int_reduce_add(const IntVec& a) { return _mm512_reduce_add_epi32(a.v); }
QUIPU_INLINE void store_bytes(int8_t* p, const IntVec& a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

QUIPU_INLINE Vec load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
QUIPU_INLINE Vec widen_bf16(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
QUIPU_INLINE Vec load_bf16(const uint16_t* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
QUIPU_INLINE void store_bf16(uint16_t* p, const Vec& a) {
  const __m512i bits = _mm512_castps_si512(a.v), high = _mm512_srli_epi32(bits, 16);
  const __m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i words = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(words));
}
QUIPU_INLINE Vec load_u8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
QUIPU_INLINE IntVec load_i8(const int8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
QUIPU_INLINE IntVec load_int(const void* p) { return {_mm512_loadu_si512(p)}; }
QUIPU_INLINE IntVec load_int_part(const void* p, int n) {
  return {_mm512_maskz_loadu_epi32(first_lanes(n), p)};
}
QUIPU_INLINE IntVec int_and(const IntVec& a, const IntVec& b) {
  return {_mm512_and_si512(a.v, b.v)};
}
QUIPU_INLINE Vec pair_low(const IntVec& a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))};
}
QUIPU_INLINE Vec pair_high(const IntVec& a) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(a.v, _mm512_set1_epi32(static_cast<int32_t>(0xFFFF0000u))))};
}

template <int kBits>
QUIPU_INLINE void load_codes_8(const uint8_t* p, Codes& codes) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) codes.v[j] = _mm512_loadu_si512(p + 64 * j);
}
QUIPU_INLINE void load_codes_4(const uint8_t* p, Codes& codes) {
  const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i pairs = _mm512_loadu_si512(p + 64 * j);
    codes.v[j] = _mm512_and_si512(pairs, low);
    codes.v[j + 4] = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low);
  }
}
QUIPU_INLINE void load_codes_6(const uint8_t* p, Codes& codes) {
  load_codes_4(p, codes);
  const __m512i bits = _mm512_set1_epi8(0x30);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m512i plane = _mm512_loadu_si512(p + 256 + 64 * h);
    const __m512i shifted[4] = {_mm512_slli_epi16(plane, 4), _mm512_slli_epi16(plane, 2), plane,
                                _mm512_srli_epi16(plane, 2)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // codes | (shifted & bits)
      codes.v[4 * h + i] = _mm512_ternarylogic_epi32(codes.v[4 * h + i], shifted[i], bits, 0xF8);
    }
  }
}
template <int kBits>
QUIPU_INLINE IntVec start_group(const QuantGroup& x, ZeroPoint zero) {
  return int_splat(x.zero_sums[static_cast<int>(zero)]);
}
template <int kBits, int kFirst, int kLast, int kTogether>
QUIPU_INLINE void dot_codes(const Codes& codes, const QuantGroup* x, IntVec (&dots)[kTogether]) {
#pragma GCC unroll 8
  for (int j = kFirst; j < kLast; ++j) {
#pragma GCC unroll 4
    for (int i = 0; i < kTogether; ++i) {
      int32_t quad;
      memcpy(&quad, x[i].codes + 4 * j, 4);
      dots[i].v = _mm512_dpbusd_epi32(dots[i].v, codes.v[j], _mm512_set1_epi32(quad));
    }
  }
}
// Parts of a group, for kernels_dot_tiles.inc: two quads that share bytes; a quad of half a group
// of kU6K; and a quad of two tiles times that of one token.
QUIPU_INLINE void load_nibble_quads(const uint8_t* p, IntVec& low, IntVec& high) {
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i pairs = _mm512_loadu_si512(p);
  low.v = _mm512_and_si512(pairs, mask);
  high.v = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), mask);
}
QUIPU_INLINE IntVec load_6_bit_quad(const uint8_t* group, int i, int half) {
  const __m512i pairs = _mm512_loadu_si512(group + 64 * i);
  const __m512i nibbles = half == 0 ? pairs : _mm512_srli_epi16(pairs, 4);
  const __m512i plane = _mm512_loadu_si512(group + 256 + 64 * half);
  const __m512i bits = i == 0   ? _mm512_slli_epi16(plane, 4)
                       : i == 1 ? _mm512_slli_epi16(plane, 2)
                       : i == 2 ? plane
                                : _mm512_srli_epi16(plane, 2);
  const __m512i low = _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
  return {_mm512_ternarylogic_epi32(low, bits, _mm512_set1_epi8(0x30), 0xF8)};
}
QUIPU_INLINE void dot_quad(const IntVec (&codes)[2], const QuantGroup& x, int quad, IntVec& first,
                           IntVec& second) {
  int32_t activations;
  memcpy(&activations, x.codes + 4 * quad, 4);
  const __m512i broadcast = _mm512_set1_epi32(activations);
  first.v = _mm512_dpbusd_epi32(first.v, codes[0].v, broadcast);
  second.v = _mm512_dpbusd_epi32(second.v, codes[1].v, broadcast);
}
// One multiply-add instruction's worth of work, operands in registers: 64 products.
QUIPU_INLINE IntVec peak_step(const IntVec& codes, const IntVec& x, const IntVec& sum) {
  return {_mm512_dpbusd_epi32(sum.v, codes.v, x.v)};
}
QUIPU_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

}  // namespace
}  // namespace quipu::cpu
