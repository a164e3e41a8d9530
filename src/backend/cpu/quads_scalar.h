// Products of codes in plain C++: the definition of what each operation means, as vec_scalar.h is
// for the vectors. quads_avx2.h and quads_avx512.h define the same names.
//
// A quad vector holds four codes (bytes without sign) for each of 16 lanes. The other factor is a
// quad of wide codes, packed in 64 bits as each set likes it.
#pragma once

#include "backend/cpu/vec_scalar.h"

namespace quipu::cpu {
namespace {

constexpr int kCodeRows = block_of(2);  // rows whose sums stay in registers
constexpr int kKeyRows = 1;             // of two tiles of keys

struct QuadVec {
  uint8_t v[64];
};
struct QuadSum {
  IntVec v;
};

QUIPU_INLINE QuadVec load_quads(const uint8_t* p) {
  QuadVec r;
  memcpy(r.v, p, 64);
  return r;
}
QUIPU_INLINE QuadSum start_quads(const IntVec& init) { return {init}; }
QUIPU_INLINE void add_quads(const QuadVec& codes, const uint64_t* x, QuadSum& sum) {
  int16_t wide[4];
  memcpy(wide, x, 8);
  for (int i = 0; i < kLanes; ++i) {
    const uint8_t* c = codes.v + 4 * i;
    sum.v.v[i] += c[0] * wide[0] + c[1] * wide[1] + c[2] * wide[2] + c[3] * wide[3];
  }
}
QUIPU_INLINE IntVec total_quads(const QuadSum& sum) { return sum.v; }
// Four quads from 16 wide codes, `stride` apart.
QUIPU_INLINE void pack_wide(const IntVec& codes, uint64_t* x, size_t stride) {
  for (size_t quad = 0; quad < 4; ++quad) {
    int16_t wide[4];
    for (size_t i = 0; i < 4; ++i) wide[i] = static_cast<int16_t>(codes.v[4 * quad + i]);
    memcpy(x + quad * stride, wide, 8);
  }
}
QUIPU_INLINE void store_int(void* p, const IntVec& a) { memcpy(p, &a, sizeof(a)); }

// Codes of four bits, multiplied with signed bytes of up to 127 in size. A sum takes in at most
// kSumQuads quads.
constexpr size_t kSumQuads = 8;
struct NibbleVec {
  uint8_t v[64];
};
struct NibbleSum {
  IntVec v;
};
// The low halves of 64 bytes, and the high ones.
QUIPU_INLINE void load_nibbles(const uint8_t* p, NibbleVec& low, NibbleVec& high) {
  for (int i = 0; i < 64; ++i) {
    low.v[i] = p[i] & 15;
    high.v[i] = p[i] >> 4;
  }
}
QUIPU_INLINE NibbleSum start_nibbles() { return {int_splat(0)}; }
QUIPU_INLINE void add_nibbles(const NibbleVec& codes, const uint32_t* x, NibbleSum& sum) {
  int8_t bytes[4];
  memcpy(bytes, x, 4);
  for (int i = 0; i < kLanes; ++i) {
    const uint8_t* c = codes.v + 4 * i;
    sum.v.v[i] += c[0] * bytes[0] + c[1] * bytes[1] + c[2] * bytes[2] + c[3] * bytes[3];
  }
}
QUIPU_INLINE IntVec total_nibbles(const NibbleSum& sum) { return sum.v; }
// Lane i of rows[j] becomes lane j of rows[i].
QUIPU_INLINE void transpose(IntVec (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const int32_t lane = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i];
      rows[j].v[i] = lane;
    }
  }
}

}  // namespace
}  // namespace quipu::cpu
