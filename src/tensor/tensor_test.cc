#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/random.h"
#include "tensor/dtype.h"
#include "tensor/half.h"
#include "tensor/tensor_view.h"

namespace quipu {
namespace {

TEST(DType, NamesAndIdsGoBothWays) {
  for (const DTypeTraits& traits : all_dtypes()) {
    EXPECT_EQ(dtype_from_name(traits.name), traits.dtype);
    EXPECT_EQ(dtype_from_gguf_id(static_cast<uint32_t>(traits.dtype)), traits.dtype);
    EXPECT_EQ(gguf_type_name(static_cast<uint32_t>(traits.dtype)), traits.name);
    EXPECT_EQ(row_bytes(traits.dtype, 3 * traits.block_elements), 3 * traits.block_bytes);
  }
  EXPECT_EQ(dtype_from_name("Q4_K"), DType::kQ4_K);
  EXPECT_EQ(dtype_from_name("q4"), std::nullopt);
  EXPECT_EQ(dtype_from_gguf_id(16), std::nullopt);
  EXPECT_EQ(gguf_type_name(16), "iq2_xxs");
  EXPECT_EQ(gguf_type_name(4), "type 4");
  EXPECT_EQ(gguf_type_name(4000000000u), "type 4000000000");
  EXPECT_DEATH(row_bytes(DType::kQ4_K, 128), "not a multiple");
}

TEST(TensorView, FoldsOuterDimensionsIntoRows) {
  float values[24] = {};
  const TensorView view{DType::kF32, {2, 3, 4}, std::as_bytes(std::span(values))};
  EXPECT_EQ(view.columns(), 4);
  EXPECT_EQ(view.rows(), 6);
  EXPECT_EQ(view.row(5), view.data.data() + 5 * 16);
  EXPECT_EQ(shape_to_string(view.shape), "[2, 3, 4]");
  EXPECT_EQ(element_count({}), 1);
}

TEST(Half, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    const uint16_t back = f32_to_f16(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(back))) << bits;
    } else {
      EXPECT_EQ(back, bits);
    }
    const float brain = bf16_to_f32(static_cast<uint16_t>(bits));
    if (!std::isnan(brain)) {
      EXPECT_EQ(f32_to_bf16(brain), bits);
    }
  }
}

TEST(Half, KnownValues) {
  EXPECT_EQ(f32_to_f16(1.0f), 0x3C00);
  EXPECT_EQ(f32_to_f16(-2.0f), 0xC000);
  EXPECT_EQ(f32_to_f16(65504.0f), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65519.99f), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(f32_to_f16(0x1p-24f), 0x0001);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);         // a tie goes to the even zero
  EXPECT_EQ(f32_to_f16(0x1.8p-24f), 0x0002);       // and here to the even two
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3C00);  // tie, to even
  EXPECT_EQ(f32_to_f16(1.0f + 0x1.8p-10f), 0x3C02);
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3F80);  // tie, to even
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1.8p-7f), 0x3F82);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::infinity()), 0x7F80);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7F800001u)))));
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Half, RoundsToTheNearestNeighbour) {
  Random random(11);
  for (int i = 0; i < 20000; ++i) {
    const float value =
        std::ldexp(random.next_normal(), static_cast<int>(random.next_below(40)) - 26);
    if (std::fabs(value) > 65504.0f) continue;
    const uint16_t bits = f32_to_f16(value);
    const float error = std::fabs(f16_to_f32(bits) - value);
    for (const int step : {-1, 1}) {
      const float neighbour = f16_to_f32(static_cast<uint16_t>(bits + step));
      if (std::isfinite(neighbour)) {
        EXPECT_LE(error, std::fabs(neighbour - value)) << value;
      }
    }
  }
}

}  // namespace
}  // namespace quipu
