#include "tensor/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "base/file.h"
#include "base/random.h"
#include "tensor/quant_blocks.h"

namespace quipu {
namespace {

std::vector<float> normal_values(size_t count, float deviation, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = deviation * random.next_normal();
  return values;
}

std::vector<float> round_trip(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> row(row_bytes(dtype, values.size()));
  quantize_row(dtype, values, row.data());
  std::vector<float> back(values.size());
  dequantize_row(dtype, row.data(), back);
  return back;
}

// Root of the mean squared error over the root mean square.
double relative_error(const std::vector<float>& values, const std::vector<float>& back) {
  double error = 0, power = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += (values[i] - back[i]) * (values[i] - back[i]);
    power += values[i] * values[i];
  }
  return std::sqrt(error / power);
}

// What each type loses on normal weights, with a few percent of room: a search that gets worse
// fails here.
struct ErrorBound {
  DType dtype;
  double low, high;
};

class RoundTrip : public testing::TestWithParam<ErrorBound> {};

TEST_P(RoundTrip, LosesAsMuchAsTheTypeMust) {
  for (const float deviation : {0.02f, 1.0f, 30.0f}) {
    const auto values = normal_values(64 * 256, deviation, 5);
    const double error = relative_error(values, round_trip(GetParam().dtype, values));
    EXPECT_LE(error, GetParam().high) << dtype_name(GetParam().dtype) << " at " << deviation;
    EXPECT_GE(error, GetParam().low) << "too good to be true";
  }
}

INSTANTIATE_TEST_SUITE_P(
    EveryType, RoundTrip,
    testing::Values(ErrorBound{DType::kF32, 0, 0}, ErrorBound{DType::kF16, 1e-5, 3e-4},
                    ErrorBound{DType::kBF16, 1e-4, 2e-3}, ErrorBound{DType::kQ8_0, 1e-3, 0.006},
                    ErrorBound{DType::kQ4_0, 0.03, 0.10}, ErrorBound{DType::kQ4_1, 0.03, 0.085},
                    ErrorBound{DType::kQ5_0, 0.01, 0.05}, ErrorBound{DType::kQ5_1, 0.01, 0.042},
                    ErrorBound{DType::kQ4_K, 0.03, 0.075}, ErrorBound{DType::kQ5_K, 0.01, 0.038},
                    ErrorBound{DType::kQ6_K, 0.005, 0.019}));

TEST(Quantize, HandComputedQ8_0) {
  std::vector<float> values(32, 0.0f);
  values[0] = 12.7f;
  values[1] = -12.7f;
  values[2] = 0.1f;
  values[31] = 6.35f;
  BlockQ8_0 block;
  quantize_row(DType::kQ8_0, values, reinterpret_cast<std::byte*>(&block));
  EXPECT_EQ(block.d, f32_to_f16(0.1f));
  EXPECT_EQ(block.q[0], 127);
  EXPECT_EQ(block.q[1], -127);
  EXPECT_EQ(block.q[2], 1);
  EXPECT_EQ(block.q[3], 0);
  EXPECT_TRUE(block.q[31] == 63 || block.q[31] == 64);
}

TEST(Quantize, HandComputedQ4_0) {
  std::vector<float> values(32, 0.0f);
  values[0] = -8.0f;  // the extreme: d = 1, code 0
  values[1] = 7.0f;
  values[16] = 3.0f;
  values[17] = -1.0f;
  BlockQ4_0 block;
  quantize_row(DType::kQ4_0, values, reinterpret_cast<std::byte*>(&block));
  EXPECT_EQ(block.d, 0x3C00);
  EXPECT_EQ(block.qs[0], 0xB0);  // element 16 is 3 + 8 = 11, element 0 is 0
  EXPECT_EQ(block.qs[1], 0x7F);
  EXPECT_EQ(block.qs[2], 0x88);
}

TEST(Quantize, HandComputedQ5_1) {
  std::vector<float> values(32);
  for (size_t i = 0; i < 32; ++i) values[i] = static_cast<float>(i) - 4.0f;  // d = 1, m = -4
  BlockQ5_1 block;
  quantize_row(DType::kQ5_1, values, reinterpret_cast<std::byte*>(&block));
  EXPECT_EQ(block.d, 0x3C00);
  EXPECT_EQ(block.m, 0xC400);
  EXPECT_EQ(block.qh[0], 0x00);
  EXPECT_EQ(block.qh[2], 0xFF);
  EXPECT_EQ(block.qs[3], 0x33);
  EXPECT_EQ(round_trip(DType::kQ5_1, values), values);
}

TEST(Quantize, HandBuiltQ4_KDecodes) {
  BlockQ4_K block{};
  block.d = f32_to_f16(0.5f);
  block.dmin = f32_to_f16(0.25f);
  for (size_t s = 0; s < 8; ++s) {
    pack_scale_min(block.scales, s,
                   {static_cast<uint8_t>(7 * s + 5), static_cast<uint8_t>(63 - 3 * s)});
  }
  block.qs[32 * 3 + 4] = 0xA9;  // sub-blocks 6 (low) and 7 (high), element 4
  std::vector<float> values(256);
  dequantize_row(DType::kQ4_K, reinterpret_cast<const std::byte*>(&block), values);
  EXPECT_EQ(values[0], -0.25f * 63);
  EXPECT_EQ(values[6 * 32 + 4], 0.5f * 47 * 9 - 0.25f * 45);
  EXPECT_EQ(values[7 * 32 + 4], 0.5f * 54 * 10 - 0.25f * 42);
}

TEST(Quantize, HandBuiltQ5_KDecodes) {
  BlockQ5_K block{};
  block.d = f32_to_f16(1.0f);
  pack_scale_min(block.scales, 5, {2, 0});
  block.qs[2 * 32 + 9] = 0x30;  // sub-block 5, element 9: low bits 3
  block.qh[9] = 1 << 5;         // and its fifth bit
  std::vector<float> values(256);
  dequantize_row(DType::kQ5_K, reinterpret_cast<const std::byte*>(&block), values);
  EXPECT_EQ(values[5 * 32 + 9], 2.0f * 19);
  EXPECT_EQ(values[5 * 32 + 8], 0.0f);
}

TEST(Quantize, HandBuiltQ6_KDecodes) {
  BlockQ6_K block{};
  block.d = f32_to_f16(0.5f);
  block.scales[8 + 7] = -3;       // elements 240..255: second half, group 3, l = 16..31
  block.ql[64 + 32 + 20] = 0x50;  // low bits 5 in the high nibble
  block.qh[32 + 20] = static_cast<uint8_t>(2 << 6);  // high bits 2
  std::vector<float> values(256);
  dequantize_row(DType::kQ6_K, reinterpret_cast<const std::byte*>(&block), values);
  EXPECT_EQ(values[128 + 3 * 32 + 20], 0.5f * -3 * (37 - 32));
}

TEST(Quantize, ScalesAndMinimumsPackForEveryValue) {
  for (uint8_t value = 0; value < 64; ++value) {
    uint8_t packed[12] = {};
    for (size_t s = 0; s < 8; ++s) {
      pack_scale_min(packed, s,
                     {static_cast<uint8_t>((value + 9 * s) % 64),
                      static_cast<uint8_t>((63 - value + s) % 64)});
    }
    for (size_t s = 0; s < 8; ++s) {
      const ScaleMin back = unpack_scale_min(packed, s);
      EXPECT_EQ(back.scale, (value + 9 * s) % 64);
      EXPECT_EQ(back.min, (63 - value + s) % 64);
    }
  }
}

constexpr size_t kGoldenBlocks = 4;

std::string golden_bytes(DType dtype, std::string_view kind) {
  const std::filesystem::path path = std::filesystem::path(QUIPU_SOURCE_DIR) /
                                     "src/tensor/testdata" /
                                     fmt::format("{}.{}", dtype_name(dtype), kind);
  auto text = read_file(path, 1 << 20);
  return text.ok() ? *text : std::string();
}

// tools/golden/make_quant_goldens.py: what an independent reader makes of random blocks.
TEST(QuantizeGolden, DecodesAsTheReferenceDoes) {
  size_t checked = 0;
  for (const DTypeTraits& traits : all_dtypes()) {
    if (traits.block_elements == 1) continue;
    const std::string golden = golden_bytes(traits.dtype, "decode");
    const size_t elements = kGoldenBlocks * traits.block_elements,
                 bytes = kGoldenBlocks * traits.block_bytes;
    ASSERT_EQ(golden.size(), bytes + elements * sizeof(float)) << traits.name;
    std::vector<float> expected(elements), found(elements);
    std::memcpy(expected.data(), golden.data() + bytes, elements * sizeof(float));
    dequantize_row(traits.dtype, reinterpret_cast<const std::byte*>(golden.data()), found);
    for (size_t i = 0; i < elements; ++i) {
      // The order of the products differs, so the last bit may.
      EXPECT_NEAR(found[i], expected[i], 1e-6f * (1.0f + std::fabs(expected[i])))
          << traits.name << " " << i;
    }
    ++checked;
  }
  EXPECT_EQ(checked, 8u);
}

TEST(QuantizeGolden, EncodesTheSimpleTypesAsTheReferenceDoes) {
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1}) {
    const std::string golden = golden_bytes(dtype, "encode");
    const size_t elements = kGoldenBlocks * kSimpleBlock, bytes = row_bytes(dtype, elements);
    ASSERT_EQ(golden.size(), bytes + elements * sizeof(float)) << dtype_name(dtype);
    std::vector<float> values(elements);
    std::memcpy(values.data(), golden.data(), elements * sizeof(float));
    std::string found(bytes, '\0');
    quantize_row(dtype, values, reinterpret_cast<std::byte*>(found.data()));
    EXPECT_EQ(found, golden.substr(elements * sizeof(float))) << dtype_name(dtype);
  }
}

// Properties that hold for every type and any input.
TEST(Quantize, ZerosStayZeroAndConstantsStayClose) {
  for (const DTypeTraits& traits : all_dtypes()) {
    for (const float constant : {0.0f, 1.0f, -0.75f, 0.01f}) {
      const std::vector<float> values(512, constant);
      for (const float back : round_trip(traits.dtype, values)) {
        EXPECT_NEAR(back, constant, std::fabs(constant) * 0.02) << traits.name;
      }
    }
  }
}

TEST(Quantize, SignFlipsAndOutliersAndSparseRows) {
  for (const DTypeTraits& traits : all_dtypes()) {
    auto values = normal_values(2048, 0.02f, 3);
    for (size_t i = 0; i < values.size(); i += 300) values[i] = 5.0f;      // outliers
    for (size_t i = 512; i < 1024; ++i) values[i] = std::fabs(values[i]);  // one-sided
    for (size_t i = 1024; i < 1536; ++i) values[i] = -std::fabs(values[i]);
    for (size_t i = 1536; i < 2048; ++i) values[i] = i % 7 == 0 ? values[i] : 0.0f;
    EXPECT_LE(relative_error(values, round_trip(traits.dtype, values)), 0.09) << traits.name;
  }
}

TEST(Quantize, HostileValuesGiveFiniteBlocks) {
  const float kHuge = std::numeric_limits<float>::max();
  const float kNan = std::numeric_limits<float>::quiet_NaN();
  const float kInf = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> patterns = {
      {kHuge, -kHuge},   {kNan, 1.0f},   {kInf, -kInf, 0.5f},
      {1e-40f, -1e-40f}, {1e-30f, 0.0f}, {kHuge, 1e-40f, kNan, -0.0f}};
  for (const DTypeTraits& traits : all_dtypes()) {
    if (traits.block_elements == 1) continue;  // plain types keep what they are given
    for (const auto& pattern : patterns) {
      std::vector<float> values(256);
      for (size_t i = 0; i < values.size(); ++i) values[i] = pattern[i % pattern.size()];
      for (const float back : round_trip(traits.dtype, values))
        EXPECT_TRUE(std::isfinite(back)) << traits.name;
    }
  }
  const auto back = round_trip(DType::kQ8_0, [&] {
    std::vector<float> values(32, kNan);
    values[7] = 1.0f;
    return values;
  }());
  EXPECT_EQ(back[0], 0.0f);
  EXPECT_NEAR(back[7], 1.0f, 1e-3);
}

TEST(Quantize, RequantisingWhatWasDecodedChangesLittle) {
  for (const DTypeTraits& traits : all_dtypes()) {
    const auto once = round_trip(traits.dtype, normal_values(4096, 0.5f, 9));
    EXPECT_LE(relative_error(once, round_trip(traits.dtype, once)), 0.012) << traits.name;
  }
}

TEST(Quantize, UnalignedRowsAreFine) {
  for (const DTypeTraits& traits : all_dtypes()) {
    const auto values = normal_values(256, 1.0f, 1);
    std::vector<std::byte> bytes(row_bytes(traits.dtype, 256) + 1);
    std::vector<float> back(256);
    quantize_row(traits.dtype, values, bytes.data() + 1);
    dequantize_row(traits.dtype, bytes.data() + 1, back);
    EXPECT_EQ(back, round_trip(traits.dtype, values)) << traits.name;
  }
}

}  // namespace
}  // namespace quipu
