#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "model/architecture.h"
#include "model/relative_bias.h"
#include "model/rope.h"
#include "model/sinusoid.h"

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
  metadata.set("llama.attention.sliding_window_pattern", std::vector<bool>{false, true});
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

TEST(Architecture, AnEncoderAloneSaysWhyThereIsNoKvCache) {
  for (const char* name : {"bert", "nomic-bert", "t5encoder"}) {
    Metadata metadata;
    metadata.set("general.architecture", std::string(name));
    const Status status = find_architecture(metadata).status();
    EXPECT_EQ(status.code(), ErrorCode::kUnsupported);
    for (const char* part : {name, "no KV cache", "nothing is appended"})
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

Metadata transformer_metadata(const std::string& arch) {
  Metadata metadata;
  metadata.set("general.architecture", arch);
  metadata.set(arch + ".context_length", uint64_t{512});
  metadata.set(arch + ".embedding_length", uint64_t{64});
  metadata.set(arch + ".block_count", uint64_t{6});
  metadata.set(arch + ".feed_forward_length", uint64_t{128});
  metadata.set(arch + ".attention.head_count", uint64_t{8});
  return metadata;
}

TEST(EncoderDecoder, T5HasAsManyDecoderLayersAsTheFileSays) {
  Metadata metadata = transformer_metadata("t5");
  ModelConfig config = read_t5_config(metadata).value();
  EXPECT_EQ(config.block_count, 6);
  EXPECT_EQ(config.attention_scale, 1.0f);
  EXPECT_EQ(config.encoder_decoder->relative_buckets, 32);
  metadata.set("t5.decoder_block_count", uint64_t{2});
  metadata.set("t5.decoder_start_token_id", uint64_t{3});
  metadata.set("t5.attention.key_length", uint64_t{32});
  metadata.set("t5.attention.value_length", uint64_t{32});
  config = read_t5_config(metadata).value();
  EXPECT_EQ(config.block_count, 2);
  EXPECT_EQ(config.layer_windows.size(), 2u);
  EXPECT_EQ(config.encoder_decoder->encoder_block_count, 6);
  EXPECT_EQ(config.encoder_decoder->decoder_start_token, 3);
  EXPECT_EQ(config.query_width(), 256);
}

TEST(EncoderDecoder, TransformerKeysAndTheirMistakes) {
  Metadata metadata = transformer_metadata("transformer");
  const ModelConfig plain = read_transformer_config(metadata).value();
  EXPECT_EQ(plain.activation, Activation::kRelu);
  EXPECT_EQ(plain.encoder_decoder->norm_placement, NormPlacement::kBefore);
  EXPECT_EQ(plain.encoder_decoder->sinusoid->first_position, 0);
  EXPECT_FLOAT_EQ(plain.attention_scale, 1 / std::sqrt(8.0f));
  metadata.set("transformer.norm_placement", std::string("after"));
  metadata.set("transformer.activation", std::string("silu"));
  metadata.set("transformer.position.layout", std::string("interleaved"));
  metadata.set("transformer.position.first", uint64_t{1});
  const ModelConfig set = read_transformer_config(metadata).value();
  EXPECT_EQ(set.encoder_decoder->norm_placement, NormPlacement::kAfter);
  EXPECT_EQ(set.activation, Activation::kSilu);
  EXPECT_EQ(set.encoder_decoder->sinusoid->layout, SinusoidConfig::Layout::kInterleaved);
  struct Case {
    const char* key;
    MetadataValue value;
  };
  for (const Case& c : {Case{"transformer.norm_placement", std::string("between")},
                        Case{"transformer.activation", uint64_t{1}},
                        Case{"transformer.position.first", uint64_t{2}},
                        Case{"transformer.embedding_scale", std::nan("")},
                        Case{"transformer.context_length", uint64_t{1} << 20},
                        Case{"transformer.decoder_block_count", uint64_t{0}},
                        Case{"transformer.embedding_length", uint64_t{2}}}) {
    Metadata wrong = metadata;
    wrong.set(c.key, c.value);
    const Status status = read_transformer_config(wrong).status();
    EXPECT_FALSE(status.ok()) << c.key;
  }
}

// Values of any kind in any key: refused, or a configuration whose numbers are usable.
TEST(EncoderDecoder, MutatedMetadataIsRefusedOrUsable) {
  const char* keys[] = {"context_length",
                        "embedding_length",
                        "block_count",
                        "decoder_block_count",
                        "feed_forward_length",
                        "attention.head_count",
                        "attention.head_count_kv",
                        "attention.key_length",
                        "attention.value_length",
                        "decoder_start_token_id",
                        "norm_placement",
                        "activation",
                        "embedding_scale",
                        "position.layout",
                        "position.frequencies",
                        "position.first",
                        "attention.relative_buckets_count",
                        "attention.relative_max_distance"};
  const MetadataValue values[] = {uint64_t{0},
                                  uint64_t{1},
                                  uint64_t{3},
                                  uint64_t{6},
                                  uint64_t{64},
                                  uint64_t{1} << 40,
                                  int64_t{-1},
                                  INT64_MIN,
                                  0.5,
                                  std::nan(""),
                                  1e300,
                                  std::string("before"),
                                  std::string("\xff"),
                                  true,
                                  std::vector<int64_t>{1, 2},
                                  std::vector<std::string>{}};
  uint64_t state = 9;
  const auto next = [&](size_t bound) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<size_t>((state >> 33) % bound);
  };
  int usable = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::string arch = round % 2 ? "t5" : "transformer";
    Metadata metadata = transformer_metadata(arch);
    for (size_t change = 0; change <= next(3); ++change)
      metadata.set(arch + "." + keys[next(std::size(keys))], values[next(std::size(values))]);
    const Result<ModelConfig> config = find_architecture(metadata).value()->read_config(metadata);
    if (!config.ok()) continue;
    ++usable;
    const EncoderDecoderConfig& both = *config->encoder_decoder;
    ASSERT_GT(config->block_count, 0);
    ASSERT_GT(both.encoder_block_count, 0);
    ASSERT_GE(both.decoder_start_token, 0);
    ASSERT_TRUE(std::isfinite(both.embedding_scale));
    ASSERT_EQ(config->head_count % config->head_count_kv, 0);
    if (both.sinusoid) {
      ASSERT_EQ(config->embedding_length % 2, 0);
    }
    if (both.relative_buckets > 0) {
      ASSERT_GT(both.relative_max_distance, both.relative_buckets / 2);
    }
  }
  EXPECT_GT(usable, 1000);
}

// SOURCE: T5's definition, worked out by hand: half of the buckets for each direction, half of
// those exact; the others at the powers of 16 ^ (1/8) times 8 (128 / 8 = 16).
TEST(RelativeBias, BucketsOfThePaper) {
  const auto both = [](int64_t d) { return relative_bucket(d, BiasDirection::kBoth, 32, 128); };
  const auto back = [](int64_t d) { return relative_bucket(d, BiasDirection::kBackward, 32, 128); };
  EXPECT_EQ(both(0), 0);
  EXPECT_EQ(both(-7), 7);
  EXPECT_EQ(both(7), 23);
  EXPECT_EQ(both(-8), 8);
  EXPECT_EQ(both(-16), 10);  // 8 * 16^(2/8)
  EXPECT_EQ(both(-15), 9);
  EXPECT_EQ(both(32), 28);
  EXPECT_EQ(both(-64), 14);
  EXPECT_EQ(both(-127), 15);
  EXPECT_EQ(both(100000), 31);
  EXPECT_EQ(back(5), 0);  // behind the query: nothing attends there
  EXPECT_EQ(back(-15), 15);
  EXPECT_EQ(back(-16), 16);
  EXPECT_EQ(back(-128), 31);
  for (int64_t d = 1; d < 300; ++d) EXPECT_GE(back(-d - 1), back(-d)) << d;
}

TEST(Sinusoids, FollowTheirConfiguration) {
  using Config = SinusoidConfig;
  const std::vector<float> tensor2tensor =
      make_sinusoid_table({.first_position = 1}, /*positions=*/3, /*width=*/6);
  EXPECT_NEAR(tensor2tensor[0], std::sin(1.0), 1e-6);
  EXPECT_NEAR(tensor2tensor[3], std::cos(1.0), 1e-6);
  EXPECT_NEAR(tensor2tensor[2], std::sin(1e-4), 1e-9);      // inclusive: the slowest is 1/10000
  EXPECT_NEAR(tensor2tensor[6 + 1], std::sin(2e-2), 1e-8);  // the one between: 1/100
  const std::vector<float> paper = make_sinusoid_table(
      {.layout = Config::Layout::kInterleaved, .frequencies = Config::Frequencies::kExclusive}, 2,
      4);
  EXPECT_EQ(paper[0], 0.0f);
  EXPECT_EQ(paper[1], 1.0f);
  EXPECT_NEAR(paper[4 + 2], std::sin(1e-2), 1e-8);
  EXPECT_NEAR(paper[4 + 3], std::cos(1e-2), 1e-7);
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
