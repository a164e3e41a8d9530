#include "tensor/quantize.h"

#include <cstring>

#include "base/check.h"
#include "tensor/quantize_internal.h"

namespace quipu {

namespace {

// Blocks of a memory map may be unaligned: each is copied to the stack, which compilers turn into
// plain loads.
template <typename Block, size_t kElements>
void dequantize_blocks(const std::byte* row, std::span<float> out) {
  for (size_t i = 0; i < out.size(); i += kElements, row += sizeof(Block)) {
    Block block;
    std::memcpy(&block, row, sizeof block);
    internal::dequantize(block, out.data() + i);
  }
}

template <typename Block, size_t kElements>
void quantize_blocks(std::span<const float> values, std::byte* row) {
  for (size_t i = 0; i < values.size(); i += kElements, row += sizeof(Block)) {
    float finite[kElements];
    for (size_t j = 0; j < kElements; ++j)
      finite[j] = std::isfinite(values[i + j]) ? values[i + j] : 0.0f;
    Block block;
    internal::quantize(finite, block);
    std::memcpy(row, &block, sizeof block);
  }
}

template <uint16_t (*kConvert)(float)>
void narrow(std::span<const float> values, std::byte* row) {
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = kConvert(values[i]);
    std::memcpy(row + 2 * i, &bits, sizeof bits);
  }
}

template <float (*kConvert)(uint16_t)>
void widen(const std::byte* row, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * i, sizeof bits);
    out[i] = kConvert(bits);
  }
}

}  // namespace

void dequantize_row(DType dtype, const std::byte* row, std::span<float> out) {
  QUIPU_CHECK(out.size() % dtype_traits(dtype).block_elements == 0, "{} elements in a row of {}",
              out.size(), dtype_name(dtype));
  if (out.empty()) return;
  switch (dtype) {
    case DType::kF32: std::memcpy(out.data(), row, out.size_bytes()); return;
    case DType::kF16: return widen<f16_to_f32>(row, out);
    case DType::kBF16: return widen<bf16_to_f32>(row, out);
    case DType::kQ8_0: return dequantize_blocks<BlockQ8_0, kSimpleBlock>(row, out);
    case DType::kQ4_0: return dequantize_blocks<BlockQ4_0, kSimpleBlock>(row, out);
    case DType::kQ4_1: return dequantize_blocks<BlockQ4_1, kSimpleBlock>(row, out);
    case DType::kQ5_0: return dequantize_blocks<BlockQ5_0, kSimpleBlock>(row, out);
    case DType::kQ5_1: return dequantize_blocks<BlockQ5_1, kSimpleBlock>(row, out);
    case DType::kQ4_K: return dequantize_blocks<BlockQ4_K, kSuperBlock>(row, out);
    case DType::kQ5_K: return dequantize_blocks<BlockQ5_K, kSuperBlock>(row, out);
    case DType::kQ6_K: return dequantize_blocks<BlockQ6_K, kSuperBlock>(row, out);
  }
}

void quantize_row(DType dtype, std::span<const float> values, std::byte* row) {
  QUIPU_CHECK(values.size() % dtype_traits(dtype).block_elements == 0, "{} elements in a row of {}",
              values.size(), dtype_name(dtype));
  if (values.empty()) return;
  switch (dtype) {
    case DType::kF32: std::memcpy(row, values.data(), values.size_bytes()); return;
    case DType::kF16: return narrow<f32_to_f16>(values, row);
    case DType::kBF16: return narrow<f32_to_bf16>(values, row);
    case DType::kQ8_0: return quantize_blocks<BlockQ8_0, kSimpleBlock>(values, row);
    case DType::kQ4_0: return quantize_blocks<BlockQ4_0, kSimpleBlock>(values, row);
    case DType::kQ4_1: return quantize_blocks<BlockQ4_1, kSimpleBlock>(values, row);
    case DType::kQ5_0: return quantize_blocks<BlockQ5_0, kSimpleBlock>(values, row);
    case DType::kQ5_1: return quantize_blocks<BlockQ5_1, kSimpleBlock>(values, row);
    case DType::kQ4_K: return quantize_blocks<BlockQ4_K, kSuperBlock>(values, row);
    case DType::kQ5_K: return quantize_blocks<BlockQ5_K, kSuperBlock>(values, row);
    case DType::kQ6_K: return quantize_blocks<BlockQ6_K, kSuperBlock>(values, row);
  }
}

}  // namespace quipu
