// Products of codes in AVX2. What each operation means is written in quads_scalar.h.
//
// Codes are widened to 16 bits in place, 0 and 2 of each lane in one vector, 1 and 3 in another;
// wide codes lie in that order. vpmaddwd then adds two exact products in 32 bits.
#pragma once

#include "backend/cpu/vec_avx2.h"

namespace quipu::cpu {
namespace {

constexpr int kCodeRows = block_of(4);  // 8 sums of one register
constexpr int kKeyRows = 1;             // of two tiles of keys

struct QuadVec {
  __m256i even[2], odd[2];
};
struct QuadSum {
  __m256i a, b;
};

QUIPU_INLINE QuadVec widen_quads(__m256i a, __m256i b) {
  const __m256i mask = _mm256_set1_epi16(255);
  return {{_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)},
          {_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)}};
}
QUIPU_INLINE QuadVec load_quads(const uint8_t* p) {
  return widen_quads(load_256(p), load_256(p + 32));
}
QUIPU_INLINE QuadSum start_quads(const IntVec& init) { return {init.a, init.b}; }
QUIPU_INLINE void add_quads(const QuadVec& codes, const uint64_t* x, QuadSum& sum) {
  // Two loads that broadcast: one of 8 bytes would go through a general register.
  int32_t first, second;
  memcpy(&first, x, 4);
  memcpy(&second, reinterpret_cast<const char*>(x) + 4, 4);
  const __m256i even = _mm256_set1_epi32(first), odd = _mm256_set1_epi32(second);
  sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(codes.even[0], even));
  sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(codes.even[1], even));
  sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(codes.odd[0], odd));
  sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(codes.odd[1], odd));
}
QUIPU_INLINE IntVec total_quads(const QuadSum& sum) { return {sum.a, sum.b}; }
QUIPU_INLINE void pack_wide(const IntVec& codes, uint64_t* x, size_t stride) {
  // packs works within 128-bit halves: quads 0, 2, 1, 3; then codes 0 2 1 3 within each.
  const __m256i words = _mm256_packs_epi32(codes.a, codes.b);
  const __m256i order = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xD8), 0xD8);
  x[0] = static_cast<uint64_t>(_mm256_extract_epi64(order, 0));
  x[stride] = static_cast<uint64_t>(_mm256_extract_epi64(order, 2));
  x[2 * stride] = static_cast<uint64_t>(_mm256_extract_epi64(order, 1));
  x[3 * stride] = static_cast<uint64_t>(_mm256_extract_epi64(order, 3));
}
QUIPU_INLINE void store_int(void* p, const IntVec& x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<char*>(p) + 32), x.b);
}

// vpmaddubsw adds two products in 16 bits: 16 of them, of up to 15 * 127, fit.
constexpr size_t kSumQuads = 8;
struct NibbleVec {
  __m256i a, b;
};
struct NibbleSum {
  __m256i a, b;  // pairs of 16 bits
};
QUIPU_INLINE void load_nibbles(const uint8_t* p, NibbleVec& low, NibbleVec& high) {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i a = load_256(p), b = load_256(p + 32);
  low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
  high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
}
QUIPU_INLINE NibbleSum start_nibbles() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
QUIPU_INLINE void add_nibbles(const NibbleVec& codes, const uint32_t* x, NibbleSum& sum) {
  const __m256i bytes = _mm256_set1_epi32(static_cast<int32_t>(*x));
  sum.a = _mm256_add_epi16(sum.a, _mm256_maddubs_epi16(codes.a, bytes));
  sum.b = _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(codes.b, bytes));
}
QUIPU_INLINE IntVec total_nibbles(const NibbleSum& sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(sum.a, ones), _mm256_madd_epi16(sum.b, ones)};
}
QUIPU_INLINE void transpose(IntVec (&rows)[kLanes]) {
  int32_t lanes[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) store_int(lanes[i], rows[i]);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const int32_t lane = lanes[i][j];
      lanes[i][j] = lanes[j][i];
      lanes[j][i] = lane;
    }
  }
  for (int i = 0; i < kLanes; ++i) rows[i] = load_int(lanes[i]);
}

}  // namespace
}  // namespace quipu::cpu
