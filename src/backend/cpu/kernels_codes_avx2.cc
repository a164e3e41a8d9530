// Kernels of attention over codes for the instruction set avx2; see kernels.h for what its flags
// forbid.
#include "backend/cpu/quads_avx2.h"
// clang-format off: after the vectors that it is written over
#include "backend/cpu/kernels_codes.inc"
#include "backend/cpu/kernels_nibbles.inc"
// clang-format on

namespace quipu::cpu {
const CodeKernels& avx2_code_kernels() { return kCodeTable; }
}  // namespace quipu::cpu
