// Kernels for any x86-64 (or any machine at all): plain C++.
#include "backend/cpu/vec_scalar.h"

#define QUIPU_TABLE_NAME "scalar"
// clang-format off: vectors, then functions over them, then the table
#include "backend/cpu/kernels_dot.inc"
#include "backend/cpu/kernels_math.inc"
#include "backend/cpu/kernels_table.inc"
// clang-format on

namespace quipu::cpu {
const KernelTable& scalar_kernels() { return kTable; }
}  // namespace quipu::cpu
