// Block-wise conversions behind quantize.h: one function pair per stored type, private to tensor/.
//
// SHAPE: block: one block of the type; values: block_elements f32, all finite when quantising.
// THREADS: pure functions.
#pragma once

#include <cmath>

#include "tensor/half.h"
#include "tensor/quant_blocks.h"

namespace quipu::internal {

void dequantize(const BlockQ8_0& block, float* values);
void dequantize(const BlockQ4_0& block, float* values);
void dequantize(const BlockQ4_1& block, float* values);
void dequantize(const BlockQ5_0& block, float* values);
void dequantize(const BlockQ5_1& block, float* values);
void dequantize(const BlockQ4_K& block, float* values);
void dequantize(const BlockQ5_K& block, float* values);
void dequantize(const BlockQ6_K& block, float* values);

void quantize(const float* values, BlockQ8_0& block);
void quantize(const float* values, BlockQ4_0& block);
void quantize(const float* values, BlockQ4_1& block);
void quantize(const float* values, BlockQ5_0& block);
void quantize(const float* values, BlockQ5_1& block);
void quantize(const float* values, BlockQ4_K& block);
void quantize(const float* values, BlockQ5_K& block);
void quantize(const float* values, BlockQ6_K& block);

// A scale as the nearest finite half: values beyond its range saturate instead of becoming
// infinite.
inline uint16_t scale_to_f16(float value) {
  constexpr float kLargestHalf = 65504.0f;
  return f32_to_f16(std::fmin(std::fmax(value, -kLargestHalf), kLargestHalf));
}

}  // namespace quipu::internal
