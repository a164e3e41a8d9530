// Kernels for any machine: plain C++.
#include "backend/cpu/vec_scalar.h"

#define QUIPU_TABLE_NAME "scalar"
// clang-format off: in the order of their dependence
#include "backend/cpu/kernels_dot.inc"
#include "backend/cpu/kernels_pack.inc"
#include "backend/cpu/kernels_math.inc"
#include "backend/cpu/kernels_values.inc"
#include "backend/cpu/kernels_measure.inc"
#include "backend/cpu/kernels_table.inc"
// clang-format on

namespace quipu::cpu {
const KernelTable& scalar_kernels() { return kTable; }
}  // namespace quipu::cpu
