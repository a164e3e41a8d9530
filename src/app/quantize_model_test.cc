#include "app/quantize_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "app/synth_model.h"
#include "tensor/quantize.h"

namespace quipu {
namespace {

class QuantizeModel : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("quipu-quantize-{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<ModelFile> open(const std::filesystem::path& path) {
    auto model = open_model_file(path);
    EXPECT_TRUE(model.ok()) << model.status().message();
    return model.ok() ? std::move(model).value() : nullptr;
  }

  std::vector<float> floats_of(const ModelFile& model, std::string_view name) {
    const TensorData data = model.read(name).value();
    std::vector<float> values(static_cast<size_t>(element_count(data.view.shape)));
    dequantize_row(data.view.dtype, data.view.data.data(), values);
    return values;
  }

  std::filesystem::path folder_;
};

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, power = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    power += a[i] * a[i];
  }
  return std::sqrt(error / power);
}

TEST_F(QuantizeModel, EveryTypeKeepsEveryTensorClose) {
  ASSERT_TRUE(synth_model({.shape = "tiny-qwen3", .type = DType::kF32}, folder_ / "in.gguf").ok());
  const auto in = open(folder_ / "in.gguf");
  for (const DTypeTraits& traits : all_dtypes()) {
    const auto out_path = folder_ / fmt::format("{}.gguf", traits.name);
    const Status status = quantize_model(*in, out_path, {.type = traits.dtype, .threads = 2});
    ASSERT_TRUE(status.ok()) << status.message();
    const auto out = open(out_path);
    ASSERT_EQ(out->tensors().size(), in->tensors().size());
    EXPECT_EQ(out->metadata().get_int("general.quantization_version"), 2);
    EXPECT_EQ(out->metadata().get_int("qwen3.embedding_length"), 256);
    EXPECT_EQ(out->find("blk.0.attn_q.weight")->dtype, traits.dtype);
    for (const TensorInfo& tensor : in->tensors()) {
      EXPECT_EQ(out->find(tensor.name)->shape, tensor.shape);
      EXPECT_LE(relative_error(floats_of(*in, tensor.name), floats_of(*out, tensor.name)), 0.09)
          << tensor.name;
      if (tensor.shape.size() == 1) {
        EXPECT_EQ(floats_of(*in, tensor.name), floats_of(*out, tensor.name)) << tensor.name;
      }
    }
  }
}

TEST_F(QuantizeModel, TheFileDoesNotDependOnThreads) {
  ASSERT_TRUE(synth_model({.shape = "tiny-llama", .type = DType::kBF16}, folder_ / "in.gguf").ok());
  const auto in = open(folder_ / "in.gguf");
  ASSERT_TRUE(quantize_model(*in, folder_ / "1.gguf", {.type = DType::kQ4_K, .threads = 1}).ok());
  ASSERT_TRUE(quantize_model(*in, folder_ / "5.gguf", {.type = DType::kQ4_K, .threads = 5}).ok());
  EXPECT_EQ(read_file(folder_ / "1.gguf", 1 << 28).value(),
            read_file(folder_ / "5.gguf", 1 << 28).value());
}

TEST_F(QuantizeModel, HuggingFaceDirectoryBecomesGgufWithItsTokenizer) {
  const auto in =
      open(std::filesystem::path(QUIPU_SOURCE_DIR) / "tests/golden/models/llama-rope-llama3");
  QuantizeOptions options;
  options.type = DType::kQ4_K;
  options.tokenizer_metadata = {{"tokenizer.ggml.model", std::string("gpt2")},
                                {"tokenizer.ggml.bos_token_id", uint64_t{9}}};
  std::vector<std::string> seen;
  options.progress = [&](const WriteProgress& progress) {
    seen.emplace_back(progress.tensor);
    EXPECT_LE(progress.bytes_done, progress.bytes_total);
    return true;
  };
  ASSERT_TRUE(quantize_model(*in, folder_ / "out.gguf", options).ok());
  EXPECT_EQ(seen.size(), in->tensors().size());
  const auto out = open(folder_ / "out.gguf");
  EXPECT_EQ(out->metadata().get_string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(out->metadata().get_int("tokenizer.ggml.bos_token_id"), 9);
  EXPECT_EQ(out->metadata().get_int("general.file_type"), 15);
  EXPECT_EQ(floats_of(*out, "rope_freqs.weight"), floats_of(*in, "rope_freqs.weight"));
  // Rows of 64 take q8_0 in place of q4_k.
  EXPECT_EQ(out->find("blk.0.attn_q.weight")->dtype, DType::kQ8_0);
}

TEST_F(QuantizeModel, AModelWithoutVocabularySaysSo) {
  const auto in = open(std::filesystem::path(QUIPU_SOURCE_DIR) / "tests/golden/models/llama-bias");
  ASSERT_TRUE(quantize_model(*in, folder_ / "out.gguf", {}).ok());
  const auto out = open(folder_ / "out.gguf");
  EXPECT_EQ(out->metadata().get_string("tokenizer.ggml.model"), "no_vocab");
  EXPECT_EQ(out->metadata().get_int("llama.vocab_size"), 101);
}

TEST_F(QuantizeModel, StoppingLeavesNothingBehind) {
  ASSERT_TRUE(synth_model({.shape = "tiny-llama"}, folder_ / "in.gguf").ok());
  const auto in = open(folder_ / "in.gguf");
  const Status status = quantize_model(*in, folder_ / "out.gguf",
                                       {.progress = [](const WriteProgress&) { return false; }});
  EXPECT_EQ(status.code(), ErrorCode::kCancelled);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++files;
  EXPECT_EQ(files, 1u);
}

TEST_F(QuantizeModel, SaysBeforeTheWorkThatTheDiskIsTooSmall) {
  const Status status = check_room_for(folder_ / "x.gguf", uint64_t{1} << 60);
  EXPECT_EQ(status.code(), ErrorCode::kResourceExhausted);
  EXPECT_NE(status.message().find("free"), std::string::npos);
  EXPECT_TRUE(check_room_for("x.gguf", 1).ok());
}

TEST_F(QuantizeModel, AFolderThatIsNotThereIsOneError) {
  ASSERT_TRUE(synth_model({.shape = "tiny-llama"}, folder_ / "in.gguf").ok());
  const auto in = open(folder_ / "in.gguf");
  const Status status = quantize_model(*in, folder_ / "none" / "out.gguf", {});
  EXPECT_EQ(status.code(), ErrorCode::kIo);
  EXPECT_NE(status.message().find("out.gguf"), std::string::npos);
}

}  // namespace
}  // namespace quipu
