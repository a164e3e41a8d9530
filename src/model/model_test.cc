#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "model/architecture.h"
#include "model/rope.h"

namespace quipu {
namespace {

Metadata llama_metadata() {
  Metadata metadata;
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("llama.context_length", uint64_t{2048});
  metadata.set("llama.embedding_length", uint64_t{256});
  metadata.set("llama.block_count", uint64_t{2});
  metadata.set("llama.feed_forward_length", uint64_t{512});
  metadata.set("llama.attention.head_count", uint64_t{4});
  metadata.set("llama.attention.head_count_kv", uint64_t{2});
  metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-6);
  return metadata;
}

TEST(Architecture, ReadsAConfigWithItsDefaults) {
  const Metadata metadata = llama_metadata();
  const Architecture* architecture = find_architecture(metadata).value();
  const ModelConfig config = architecture->read_config(metadata).value();
  EXPECT_EQ(config.key_length, 64);
  EXPECT_EQ(config.value_length, 64);
  EXPECT_EQ(config.rope.dims, 64);
  EXPECT_EQ(config.rope.pairing, RopePairing::kInterleaved);
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-6f);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.125f);
}

TEST(Architecture, WindowsHoldForTheLayersThatThePatternNames) {
  Metadata metadata = llama_metadata();
  EXPECT_EQ(read_llama_config(metadata)->layer_windows, (std::vector<int>{0, 0}));
  metadata.set("llama.attention.sliding_window", uint64_t{1024});
  EXPECT_EQ(read_llama_config(metadata)->layer_windows, (std::vector<int>{1024, 1024}));
  metadata.set("llama.attention.sliding_window_pattern", std::vector<bool>{false, true});
  EXPECT_EQ(read_llama_config(metadata)->layer_windows, (std::vector<int>{0, 1024}));
  metadata.set("llama.attention.sliding_window_pattern", std::vector<bool>{true});
  EXPECT_EQ(read_llama_config(metadata).status().code(), ErrorCode::kUnsupported);
  metadata.set("llama.attention.sliding_window", uint64_t{4096});  // it never cuts anything off
  EXPECT_EQ(read_llama_config(metadata)->layer_windows, (std::vector<int>{0, 0}));
}

TEST(Architecture, AnUnsupportedOneListsTheSupported) {
  Metadata metadata;
  metadata.set("general.architecture", std::string("mamba"));
  const Status status = find_architecture(metadata).status();
  EXPECT_EQ(status.code(), ErrorCode::kUnsupported);
  for (const char* part : {"mamba", "llama", "qwen2", "qwen3", "gpt2", "starcoder"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

TEST(Architecture, BadDimensionsNameTheKey) {
  struct Case {
    const char* key;
    uint64_t value;
  };
  for (const Case& c :
       {Case{"llama.block_count", 0}, Case{"llama.attention.head_count", 3},
        Case{"llama.attention.head_count_kv", 3}, Case{"llama.embedding_length", uint64_t{1} << 40},
        Case{"llama.rope.dimension_count", 65}}) {
    Metadata metadata = llama_metadata();
    metadata.set(c.key, c.value);
    const Result<ModelConfig> config = read_llama_config(metadata);
    EXPECT_EQ(config.status().code(), ErrorCode::kCorruptData) << c.key;
  }
}

TEST(Rope, PlainFrequenciesAreGeometric) {
  const RopeFrequencies rope = make_rope_frequencies({.dims = 8, .theta = 10000}, {});
  for (int i = 0; i < 4; ++i)
    EXPECT_NEAR(rope.frequencies[i], std::pow(10000.0, -2.0 * i / 8), 1e-7);
  EXPECT_EQ(rope.magnitude, 1.0f);
}

TEST(Rope, LinearAndFactorsDivideFrequencies) {
  const RopeConfig linear = {.dims = 4, .theta = 100, .scaling = RopeScaling::kLinear, .factor = 4};
  EXPECT_FLOAT_EQ(make_rope_frequencies(linear, {}).frequencies[0], 0.25f);
  const std::vector<float> factors = {1, 8};
  const RopeFrequencies llama3 = make_rope_frequencies({.dims = 4, .theta = 100}, factors);
  EXPECT_FLOAT_EQ(llama3.frequencies[0], 1.0f);
  EXPECT_FLOAT_EQ(llama3.frequencies[1], 0.1f / 8);
}

TEST(Rope, YarnKeepsFastWavesAndStretchesSlowOnes) {
  const RopeConfig config = {.dims = 64,
                             .theta = 10000,
                             .scaling = RopeScaling::kYarn,
                             .factor = 4,
                             .original_context = 2048};
  const RopeFrequencies yarn = make_rope_frequencies(config, {});
  const RopeFrequencies plain = make_rope_frequencies({.dims = 64, .theta = 10000}, {});
  EXPECT_FLOAT_EQ(yarn.frequencies.front(), plain.frequencies.front());
  EXPECT_FLOAT_EQ(yarn.frequencies.back(), plain.frequencies.back() / 4);
  EXPECT_NEAR(yarn.magnitude, 1 + 0.1 * std::log(4.0), 1e-6);
}

// Two tokens 100 apart make the same angle at a million as at the beginning; with a product in f32
// they would not.
TEST(Rope, DistancesStayExactPastTheContext) {
  const RopeFrequencies rope = make_rope_frequencies({.dims = 64}, {});
  const std::vector<int32_t> positions = {0,         100,           1'000'000,
                                          1'000'100, 2'000'000'000, 2'000'000'100};
  std::vector<float> table(positions.size() * 64);
  fill_rope_table(rope, positions, 2048, table.data());
  const auto difference = [&](size_t from, size_t to, size_t pair) {
    const float* a = &table[from * 64 + pair * 2];
    const float* b = &table[to * 64 + pair * 2];
    return std::pair(b[0] * a[0] + b[1] * a[1], b[1] * a[0] - b[0] * a[1]);  // of the angles
  };
  for (size_t pair = 0; pair < 32; ++pair) {
    const auto [cosine, sine] = difference(0, 1, pair);
    for (const size_t from : {2, 4}) {
      const auto [far_cosine, far_sine] = difference(from, from + 1, pair);
      EXPECT_NEAR(far_cosine, cosine, 2e-6) << "pair " << pair;
      EXPECT_NEAR(far_sine, sine, 2e-6) << "pair " << pair;
    }
  }
  // The same table with everything in f32 is off by far more.
  fill_rope_table(rope, positions, std::numeric_limits<int64_t>::max(), table.data());
  EXPECT_GT(std::abs(difference(4, 5, 1).first - difference(0, 1, 1).first), 1e-3);
}

TEST(Rope, TableHoldsCosineAndSineOfEachPosition) {
  const RopeFrequencies rope = make_rope_frequencies({.dims = 2}, {});
  const std::vector<int32_t> positions = {0, 3};
  std::vector<float> table(4);
  fill_rope_table(rope, positions, 2048, table.data());
  EXPECT_FLOAT_EQ(table[0], 1);
  EXPECT_FLOAT_EQ(table[1], 0);
  EXPECT_NEAR(table[2], std::cos(3.0), 1e-6);
  EXPECT_NEAR(table[3], std::sin(3.0), 1e-6);
}

}  // namespace
}  // namespace quipu
