// Products of codes in AVX-512 with VNNI. What each operation means is written in quads_scalar.h.
#pragma once

#include "backend/cpu/vec_avx512.h"

namespace quipu::cpu {
namespace {

constexpr int kCodeRows = block_of(8);  // 16 sums
constexpr int kKeyRows = block_of(4);   // the same for two tiles of keys

// A wide code is high * 128 + low, two signed bytes: the high bytes of a quad, then its low ones.
struct QuadVec {
  __m512i v;
};
struct QuadSum {
  __m512i high, low;
};

QUIPU_INLINE QuadVec load_quads(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
QUIPU_INLINE QuadSum start_quads(const IntVec& init) { return {_mm512_setzero_si512(), init.v}; }
QUIPU_INLINE void add_quads(const QuadVec& codes, const uint64_t* x, QuadSum& sum) {
  // Two loads that broadcast: one of 8 bytes would go through a general register.
  int32_t high, low;
  memcpy(&high, x, 4);
  memcpy(&low, reinterpret_cast<const char*>(x) + 4, 4);
  sum.high = _mm512_dpbusd_epi32(sum.high, codes.v, _mm512_set1_epi32(high));
  sum.low = _mm512_dpbusd_epi32(sum.low, codes.v, _mm512_set1_epi32(low));
}
QUIPU_INLINE IntVec total_quads(const QuadSum& sum) {
  return {_mm512_add_epi32(_mm512_slli_epi32(sum.high, 7), sum.low)};
}
QUIPU_INLINE void pack_wide(const IntVec& codes, uint64_t* x, size_t stride) {
  const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(codes.v, _mm512_set1_epi32(64)), 7);
  const __m512i low = _mm512_sub_epi32(codes.v, _mm512_slli_epi32(high, 7));
  const __m128i high_bytes = _mm512_cvtepi32_epi8(high), low_bytes = _mm512_cvtepi32_epi8(low);
  const __m128i first = _mm_unpacklo_epi32(high_bytes, low_bytes);
  const __m128i second = _mm_unpackhi_epi32(high_bytes, low_bytes);
  x[0] = static_cast<uint64_t>(_mm_cvtsi128_si64(first));
  x[stride] = static_cast<uint64_t>(_mm_extract_epi64(first, 1));
  x[2 * stride] = static_cast<uint64_t>(_mm_cvtsi128_si64(second));
  x[3 * stride] = static_cast<uint64_t>(_mm_extract_epi64(second, 1));
}
QUIPU_INLINE void store_int(void* p, const IntVec& a) { _mm512_storeu_si512(p, a.v); }

constexpr size_t kSumQuads = 8;
struct NibbleVec {
  __m512i v;
};
struct NibbleSum {
  __m512i v;
};
QUIPU_INLINE void load_nibbles(const uint8_t* p, NibbleVec& low, NibbleVec& high) {
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i pairs = _mm512_loadu_si512(p);
  low.v = _mm512_and_si512(pairs, mask);
  high.v = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), mask);
}
QUIPU_INLINE NibbleSum start_nibbles() { return {_mm512_setzero_si512()}; }
QUIPU_INLINE void add_nibbles(const NibbleVec& codes, const uint32_t* x, NibbleSum& sum) {
  sum.v = _mm512_dpbusd_epi32(sum.v, codes.v, _mm512_set1_epi32(static_cast<int32_t>(*x)));
}
QUIPU_INLINE IntVec total_nibbles(const NibbleSum& sum) { return {sum.v}; }
QUIPU_INLINE void transpose(IntVec (&rows)[kLanes]) {
  __m512i pairs[kLanes], quads[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; i += 2) {  // 2 by 2 within 128 bits
    pairs[i] = _mm512_unpacklo_epi32(rows[i].v, rows[i + 1].v);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i].v, rows[i + 1].v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {  // 4 by 4: quads[i + j] has lanes j, 4 + j, 8 + j, 12 + j
    quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // then 128 bits at a time
    const __m512i even_low = _mm512_shuffle_i32x4(quads[j], quads[4 + j], 0x88);
    const __m512i even_high = _mm512_shuffle_i32x4(quads[8 + j], quads[12 + j], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(quads[j], quads[4 + j], 0xDD);
    const __m512i odd_high = _mm512_shuffle_i32x4(quads[8 + j], quads[12 + j], 0xDD);
    rows[j].v = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    rows[8 + j].v = _mm512_shuffle_i32x4(even_low, even_high, 0xDD);
    rows[4 + j].v = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    rows[12 + j].v = _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD);
  }
}

}  // namespace
}  // namespace quipu::cpu
