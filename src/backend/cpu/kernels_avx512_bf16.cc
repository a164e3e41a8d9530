// The bf16 dot product of AVX-512 BF16, in place of the widening one.
#include "backend/cpu/vec_avx512.h"

// clang-format off: in the order of their dependence
#include "backend/cpu/kernels_dot.inc"
#include "backend/cpu/kernels_values.inc"
#include "backend/cpu/kernels_measure.inc"
// clang-format on

namespace quipu::cpu {

namespace {

// The instruction rounds once per product pair in its own way: it flushes subnormals and adds the
// odd product first.
struct TileBf16Native : TileBf16 {
  static QUIPU_INLINE Vec step(const IntVec& w, const IntVec& x, const Vec& sum) {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)w.v, (__m512bh)x.v)};
  }
};

struct ValueBf16Native : ValueBf16 {
  static QUIPU_INLINE Vec step(const IntVec& weight, const IntVec& value, const Vec& sum) {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)weight.v, (__m512bh)value.v)};
  }
};

}  // namespace

void use_avx512_bf16(KernelTable& table) {
  table.dot[static_cast<int>(Pack::kBf16)] = dot_plain<TileBf16Native>;
  table.values_bf16 = weighted_floats<ValueBf16Native>;
  table.peak_bf16 = peak_plain<TileBf16Native, 2>;
}

}  // namespace quipu::cpu
