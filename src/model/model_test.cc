#include <gtest/gtest.h>

#include <cmath>
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

// The same keys under another architecture's name.
Metadata metadata_as(const std::string& architecture) {
  Metadata metadata;
  const Metadata llama = llama_metadata();
  for (const auto& [key, value] : llama.entries()) {
    metadata.set(key.starts_with("llama.") ? architecture + key.substr(5) : key, value);
  }
  metadata.set("general.architecture", architecture);
  return metadata;
}

TEST(Architecture, WindowPatternsMayBePeriods) {
  Metadata metadata = metadata_as("gemma2");
  metadata.set("gemma2.block_count", uint64_t{4});
  metadata.set("gemma2.attention.sliding_window", uint64_t{64});
  EXPECT_EQ(read_gemma2_config(metadata)->layer_windows, (std::vector<int>{64, 0, 64, 0}));
  metadata.set("gemma2.attention.sliding_window_pattern", uint64_t{3});
  EXPECT_EQ(read_gemma2_config(metadata)->layer_windows, (std::vector<int>{64, 64, 0, 64}));
  metadata.set("gemma2.attention.sliding_window_pattern", int64_t{-3});
  EXPECT_EQ(read_gemma2_config(metadata).status().code(), ErrorCode::kUnsupported);
  metadata.set("gemma2.attention.sliding_window_pattern", std::string("all"));
  EXPECT_EQ(read_gemma2_config(metadata).status().code(), ErrorCode::kUnsupported);
}

TEST(Architecture, Gemma2CapsItsScoresAndTheLargeModelScalesThemItsOwnWay) {
  Metadata metadata = metadata_as("gemma2");
  const ModelConfig config = read_gemma2_config(metadata).value();
  EXPECT_EQ(config.attention_softcap, 50);
  EXPECT_EQ(config.output_softcap, 30);
  EXPECT_EQ(config.embedding_scale, 16);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.125f);
  EXPECT_TRUE(config.post_norms);
  metadata.set("gemma2.attn_logit_softcapping", 7.0);
  EXPECT_EQ(read_gemma2_config(metadata)->attention_softcap, 7);
  metadata.set("gemma2.attn_logit_softcapping", 0.0);
  EXPECT_EQ(read_gemma2_config(metadata).status().code(), ErrorCode::kCorruptData);
  metadata.set("gemma2.attn_logit_softcapping", 7.0);
  metadata.set("gemma2.attention.key_length", uint64_t{128});
  EXPECT_FLOAT_EQ(read_gemma2_config(metadata)->attention_scale, 1 / std::sqrt(128.0f));
  metadata.set("gemma2.block_count", uint64_t{46});
  EXPECT_FLOAT_EQ(read_gemma2_config(metadata)->attention_scale, 1 / std::sqrt(64.0f));
  metadata.set("gemma2.attention.scale", 0.25);
  EXPECT_FLOAT_EQ(read_gemma2_config(metadata)->attention_scale, 0.25f);
}

TEST(Architecture, Gemma3HasALocalRopeAlsoWhereTheWindowIsAsWideAsTheContext) {
  Metadata metadata = metadata_as("gemma3");
  metadata.set("gemma3.block_count", uint64_t{7});
  metadata.set("gemma3.rope.freq_base", 1e6);
  metadata.set("gemma3.rope.scaling.type", std::string("linear"));
  metadata.set("gemma3.rope.scaling.factor", 8.0);
  const Status status = read_gemma3_config(metadata).status();
  EXPECT_EQ(status.code(), ErrorCode::kCorruptData);
  EXPECT_NE(status.message().find("gemma3.attention.sliding_window"), std::string::npos);
  metadata.set("gemma3.attention.sliding_window", uint64_t{4096});  // context_length is 2048
  const ModelConfig config = read_gemma3_config(metadata).value();
  EXPECT_EQ(config.windowed_layers, (std::vector<bool>{1, 1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(config.layer_windows, std::vector<int>(7, 0));
  EXPECT_EQ(config.rope.theta, 1e6);
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLinear);
  ASSERT_TRUE(config.local_rope.has_value());
  EXPECT_EQ(config.local_rope->theta, 10000);
  EXPECT_EQ(config.local_rope->scaling, RopeScaling::kNone);
  EXPECT_EQ(config.output_softcap, 0);
  metadata.set("gemma3.rope.freq_base_swa", -1.0);
  EXPECT_EQ(read_gemma3_config(metadata).status().code(), ErrorCode::kCorruptData);
}

TEST(Architecture, Phi3RotatesAPartOfTheHead) {
  Metadata metadata = metadata_as("phi3");
  metadata.set("phi3.rope.dimension_count", uint64_t{48});
  metadata.set("phi3.rope.scaling.type", std::string("longrope"));
  const ModelConfig config = read_phi3_config(metadata).value();
  EXPECT_EQ(config.rope.dims, 48);
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLongRope);
  EXPECT_TRUE(config.fused_gate_up);
  metadata.set("phi3.expert_count", uint64_t{16});
  EXPECT_EQ(read_phi3_config(metadata).status().code(), ErrorCode::kUnsupported);
}

TEST(Architecture, AnUnsupportedOneListsTheSupported) {
  Metadata metadata;
  metadata.set("general.architecture", std::string("mamba"));
  const Status status = find_architecture(metadata).status();
  EXPECT_EQ(status.code(), ErrorCode::kUnsupported);
  for (const char* part :
       {"mamba", "llama", "qwen2", "qwen3", "gpt2", "starcoder", "gemma2", "gemma3", "phi3"}) {
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

TEST(Rope, TableHoldsCosineAndSineOfEachPosition) {
  const RopeFrequencies rope = make_rope_frequencies({.dims = 2}, {});
  const std::vector<int32_t> positions = {0, 3};
  std::vector<float> table(4);
  fill_rope_table(rope, positions, table.data());
  EXPECT_FLOAT_EQ(table[0], 1);
  EXPECT_FLOAT_EQ(table[1], 0);
  EXPECT_NEAR(table[2], std::cos(3.0), 1e-6);
  EXPECT_NEAR(table[3], std::sin(3.0), 1e-6);
}

}  // namespace
}  // namespace quipu
