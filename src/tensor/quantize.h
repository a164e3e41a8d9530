// Row-wise conversion between f32 and every stored type: the definition of what the bytes mean.
//
// Plain scalar code, the oracle that kernels are compared with.
// SOURCE: GGUF block formats as documented for ggml (quantisation by round to nearest; the k-quants
// search their scales by weighted least squares).
#pragma once

#include <cstddef>
#include <span>

#include "tensor/dtype.h"
#include "tensor/half.h"  // f16_to_f32, f32_to_f16, bf16_to_f32, f32_to_bf16

namespace quipu {

// SHAPE: row: row_bytes(dtype, out.size()) bytes; out: [elements] f32.
// REQUIRES: out.size() is a multiple of the type's block.
void dequantize_row(DType dtype, const std::byte* row, std::span<float> out);

// SHAPE: values: [elements] f32; row: row_bytes(dtype, elements) bytes.
// REQUIRES: as above. Non-finite values quantise as 0 (plain types keep
// them as they are).
void quantize_row(DType dtype, std::span<const float> values, std::byte* row);

}  // namespace quipu
