// Kernels for AVX2 with FMA and F16C. Compiled with these flags; see kernels.h for what that
// forbids.
#include "backend/cpu/vec_avx2.h"

#define QUIPU_TABLE_NAME "avx2"
// clang-format off: in the order of their dependence
#include "backend/cpu/kernels_dot.inc"
#include "backend/cpu/kernels_pack.inc"
#include "backend/cpu/kernels_math.inc"
#include "backend/cpu/kernels_values.inc"
#include "backend/cpu/kernels_measure.inc"
#include "backend/cpu/kernels_table.inc"
// clang-format on

namespace quipu::cpu {
const KernelTable& avx2_kernels() { return kTable; }
}  // namespace quipu::cpu
