#include "app/synth_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "tensor/quantize.h"

namespace quipu {
namespace {

class SynthModel : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("quipu-synth-{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string bytes_of(const SynthOptions& options) {
    const auto path = folder_ / "m.gguf";
    const Status status = synth_model(options, path);
    EXPECT_TRUE(status.ok()) << status.message();
    return read_file(path, 1 << 28).value();
  }

  std::filesystem::path folder_;
};

TEST_F(SynthModel, DependsOnTheArgumentsAndNotOnThreads) {
  const SynthOptions options{.shape = "tiny-llama", .type = DType::kQ4_K, .seed = 7, .threads = 1};
  SynthOptions threaded = options, reseeded = options;
  threaded.threads = 3;
  reseeded.seed = 8;
  const std::string bytes = bytes_of(options);
  EXPECT_EQ(bytes, bytes_of(threaded));
  EXPECT_NE(bytes, bytes_of(reseeded));
}

TEST_F(SynthModel, WeightsLookLikeWeights) {
  for (const DType type : {DType::kF32, DType::kQ8_0, DType::kQ4_K}) {
    ASSERT_TRUE(
        synth_model({.shape = "tiny-gpt2", .type = type, .threads = 2}, folder_ / "m.gguf").ok());
    const auto model = open_model_file(folder_ / "m.gguf");
    ASSERT_TRUE(model.ok()) << model.status().message();
    const TensorData data = (*model)->read("blk.1.ffn_up.weight").value();
    std::vector<float> values(static_cast<size_t>(element_count(data.view.shape)));
    dequantize_row(data.view.dtype, data.view.data.data(), values);
    double sum = 0, power = 0;
    for (const float value : values) {
      sum += value;
      power += static_cast<double>(value) * value;
    }
    const auto count = static_cast<double>(values.size());
    EXPECT_NEAR(sum / count, 0, 0.002);
    EXPECT_NEAR(std::sqrt(power / count), 1 / std::sqrt(256.0), 0.003);
    EXPECT_EQ((*model)->metadata().get_string("tokenizer.ggml.model"), "no_vocab");
    EXPECT_EQ((*model)->metadata().get_int("gpt2.vocab_size"), 321);
    EXPECT_EQ((*model)->find("position_embd.weight")->shape, (Shape{512, 256}));
  }
}

// Every shape has consistent tensors: one layer and a small vocabulary keep it quick.
TEST_F(SynthModel, EveryShapeCanBeWritten) {
  for (const std::string& name : synth_shape_names()) {
    bool large = false;  // the same plan as the smaller ones, but up to a hundred megabytes a layer
    for (const char* size : {"1.7b", "-2b", "-3b", "-4b", "-7b", "-8b", "-mini", "-128k"})
      large |= name.ends_with(size);
    if (large) continue;
    const SynthOptions options{.shape = name,
                               .type = DType::kQ4_0,
                               .threads = 2,
                               .layers = 1,
                               .context = 64,
                               .vocabulary = 100};
    const Status status = synth_model(options, folder_ / "m.gguf");
    ASSERT_TRUE(status.ok()) << status.message();
    const auto model = open_model_file(folder_ / "m.gguf");
    ASSERT_TRUE(model.ok()) << name << ": " << model.status().message();
    const std::string architecture =
        (*model)->metadata().get_string("general.architecture").value();
    EXPECT_EQ((*model)->metadata().get_int(architecture + ".context_length"), 64);
    EXPECT_EQ((*model)->metadata().get_int(architecture + ".block_count"), 1);
    EXPECT_EQ((*model)->find("token_embd.weight")->shape[0], 100);
  }
}

TEST_F(SynthModel, RefusesUnknownShapesAndBadOverrides) {
  const Status unknown = synth_model({.shape = "qwen3-0.6"}, folder_ / "m.gguf");
  EXPECT_EQ(unknown.code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(unknown.message().find("did you mean 'qwen3-0.6b'"), std::string::npos)
      << unknown.message();
  EXPECT_NE(unknown.message().find("llama-3.2-1b"), std::string::npos);
  const Status layers = synth_model({.shape = "tiny-llama", .layers = 0}, folder_ / "m.gguf");
  EXPECT_EQ(layers.code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(layers.message().find("layers: expected 1 to 1000, found 0"), std::string::npos)
      << layers.message();
}

}  // namespace
}  // namespace quipu
