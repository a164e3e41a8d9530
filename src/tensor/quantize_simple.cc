// The simple types: blocks of 32 with one scale (and for *_1 one minimum), round to nearest.
//
// The arithmetic is the published one, operation by operation, so that a file quantised here equals
// one quantised by other tools byte for byte (quantize_test.cc holds the goldens).
#include <algorithm>
#include <cstring>

#include "tensor/quantize_internal.h"

namespace quipu::internal {

namespace {

constexpr size_t kHalf = kSimpleBlock / 2;

// 0 for a scale that is zero or too small to have a finite reciprocal: all codes become the centre.
float reciprocal(float scale) {
  constexpr float kSmallestInvertible = 0x1p-126f;
  return std::fabs(scale) >= kSmallestInvertible ? 1.0f / scale : 0.0f;
}

// The value of largest magnitude, with its sign (the first of equals).
float signed_extreme(const float* values) {
  float extreme = 0.0f;
  for (size_t i = 0; i < kSimpleBlock; ++i) {
    if (std::fabs(values[i]) > std::fabs(extreme)) extreme = values[i];
  }
  return extreme;
}

// Rounds half up into 0..largest; written so that NaN (an overflowed range) gives 0.
uint8_t round_to_code(float value, int largest) {
  const float shifted = value + 0.5f;
  const float top = static_cast<float>(largest);
  if (!(shifted > 0.0f)) return 0;
  return static_cast<uint8_t>(shifted < top ? shifted : top);
}

void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (size_t i = 0; i < kHalf; ++i) {
    qs[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + kHalf] & 15) << 4);
  }
}

void pack_fifth_bits(const uint8_t* codes, uint8_t* qh) {
  uint32_t bits = 0;
  for (size_t i = 0; i < kSimpleBlock; ++i) bits |= uint32_t{codes[i] >> 4 & 1u} << i;
  for (size_t i = 0; i < 4; ++i) qh[i] = static_cast<uint8_t>(bits >> (8 * i));
}

int nibble(const uint8_t* qs, size_t j) { return j < kHalf ? qs[j] & 15 : qs[j - kHalf] >> 4; }

int five_bits(const uint8_t* qs, const uint8_t* qh, size_t j) {
  return nibble(qs, j) | (qh[j / 8] >> (j % 8) & 1) << 4;
}

struct Range {
  float min;
  float max;
};

Range value_range(const float* values) {
  const auto [min, max] = std::minmax_element(values, values + kSimpleBlock);
  return {*min, *max};
}

// Codes of x = d * (code - centre), where the extreme value gets code 0: one more step on its side.
void symmetric_codes(const float* values, int centre, uint16_t& d, uint8_t* codes) {
  const float scale = signed_extreme(values) / static_cast<float>(-centre);
  const float inverse = reciprocal(scale);
  d = scale_to_f16(scale);
  for (size_t i = 0; i < kSimpleBlock; ++i) {
    codes[i] = round_to_code(values[i] * inverse + static_cast<float>(centre), 2 * centre - 1);
  }
}

// Codes of x = d * code + m.
void affine_codes(const float* values, int largest, uint16_t& d, uint16_t& m, uint8_t* codes) {
  const Range range = value_range(values);
  const float scale = (range.max - range.min) / static_cast<float>(largest);
  const float inverse = reciprocal(scale);
  d = scale_to_f16(scale);
  m = scale_to_f16(range.min);
  for (size_t i = 0; i < kSimpleBlock; ++i) {
    codes[i] = round_to_code((values[i] - range.min) * inverse, largest);
  }
}

}  // namespace

void quantize(const float* values, BlockQ8_0& block) {
  const float scale = std::fabs(signed_extreme(values)) / 127.0f;
  const float inverse = reciprocal(scale);
  block.d = scale_to_f16(scale);
  for (size_t i = 0; i < kSimpleBlock; ++i) {
    block.q[i] = static_cast<int8_t>(std::clamp(std::round(values[i] * inverse), -127.0f, 127.0f));
  }
}

void dequantize(const BlockQ8_0& block, float* values) {
  const float d = f16_to_f32(block.d);
  for (size_t i = 0; i < kSimpleBlock; ++i) values[i] = d * static_cast<float>(block.q[i]);
}

void quantize(const float* values, BlockQ4_0& block) {
  uint8_t codes[kSimpleBlock];
  symmetric_codes(values, 8, block.d, codes);
  pack_nibbles(codes, block.qs);
}

void dequantize(const BlockQ4_0& block, float* values) {
  const float d = f16_to_f32(block.d);
  for (size_t i = 0; i < kSimpleBlock; ++i)
    values[i] = d * static_cast<float>(nibble(block.qs, i) - 8);
}

void quantize(const float* values, BlockQ4_1& block) {
  uint8_t codes[kSimpleBlock];
  affine_codes(values, 15, block.d, block.m, codes);
  pack_nibbles(codes, block.qs);
}

void dequantize(const BlockQ4_1& block, float* values) {
  const float d = f16_to_f32(block.d), m = f16_to_f32(block.m);
  for (size_t i = 0; i < kSimpleBlock; ++i)
    values[i] = d * static_cast<float>(nibble(block.qs, i)) + m;
}

void quantize(const float* values, BlockQ5_0& block) {
  uint8_t codes[kSimpleBlock];
  symmetric_codes(values, 16, block.d, codes);
  pack_nibbles(codes, block.qs);
  pack_fifth_bits(codes, block.qh);
}

void dequantize(const BlockQ5_0& block, float* values) {
  const float d = f16_to_f32(block.d);
  for (size_t i = 0; i < kSimpleBlock; ++i) {
    values[i] = d * static_cast<float>(five_bits(block.qs, block.qh, i) - 16);
  }
}

void quantize(const float* values, BlockQ5_1& block) {
  uint8_t codes[kSimpleBlock];
  affine_codes(values, 31, block.d, block.m, codes);
  pack_nibbles(codes, block.qs);
  pack_fifth_bits(codes, block.qh);
}

void dequantize(const BlockQ5_1& block, float* values) {
  const float d = f16_to_f32(block.d), m = f16_to_f32(block.m);
  for (size_t i = 0; i < kSimpleBlock; ++i) {
    values[i] = d * static_cast<float>(five_bits(block.qs, block.qh, i)) + m;
  }
}

}  // namespace quipu::internal
