#include "format/gguf_writer.h"

#include "base/random.h"
#include "format/gguf.h"
#include "format/test_files.h"
#include "format/weight_types.h"
#include "tensor/quantize.h"

namespace quipu {
namespace {

TEST(GgufWriter, WhatItWritesReadsBack) {
  const TemporaryFolder folder;
  const MetadataEntries metadata = {
      {"general.architecture", std::string("llama")},
      {"small", uint64_t{7}},
      {"large", uint64_t{1} << 40},
      {"negative", int64_t{-5}},
      {"very.negative", -(int64_t{1} << 40)},
      {"epsilon", 1e-5},
      {"flag", true},
      {"texts", std::vector<std::string>{"a", "\xff", ""}},
      {"flags", std::vector<bool>{true, false}},
      {"ints", std::vector<int64_t>{1, -2}},
      {"sizes", std::vector<uint64_t>{1, uint64_t{1} << 40}},
      {"numbers", std::vector<double>{0.5, -1}},
  };
  const std::vector<TensorInfo> tensors = {{"a", DType::kF32, {3}, 12},
                                           {"b", DType::kQ8_0, {2, 1, 32}, 68}};
  auto writer = GgufWriter::create(folder.path() / "m.gguf", metadata, tensors);
  ASSERT_TRUE(writer.ok());
  std::string a(12, 'a'), b(68, 'b');
  ASSERT_TRUE(writer->append(as_byte_span(a.substr(0, 5))).ok());
  ASSERT_TRUE(writer->append(as_byte_span(a.substr(5))).ok());
  ASSERT_TRUE(writer->append(as_byte_span(b)).ok());
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "m.gguf"));
  ASSERT_TRUE(writer->finish().ok());

  const auto model = open_model_file(folder.path() / "m.gguf");
  ASSERT_TRUE(model.ok()) << model.status().message();
  const Metadata& back = (*model)->metadata();
  ASSERT_EQ(back.entries().size(), metadata.size());
  for (size_t i = 0; i < metadata.size(); ++i) {
    EXPECT_EQ(back.entries()[i].first, metadata[i].first);
    if (metadata[i].first != "epsilon") {
      EXPECT_EQ(back.entries()[i].second, metadata[i].second) << metadata[i].first;
    }
  }
  EXPECT_EQ(back.get_double("epsilon"), static_cast<double>(1e-5f));
  EXPECT_EQ((*model)->tensors()[1].shape, (Shape{2, 1, 32}));
  const TensorData data = (*model)->read("b").value();
  EXPECT_EQ(data.view.data[67], std::byte{'b'});
}

TEST(GgufWriter, IntegersTakeTheWidthThatOtherEnginesExpect) {
  const std::string header = gguf_header({{"k", uint64_t{7}}}, {});
  // magic, version, two counts, key length and key, then the type: u32.
  EXPECT_EQ(header[4 + 4 + 8 + 8 + 8 + 1], 4);
  EXPECT_EQ(gguf_header({{"k", int64_t{7}}}, {})[33], 5);
  EXPECT_EQ(gguf_header({{"k", 0.5}}, {})[33], 6);
}

TEST(GgufWriter, RowsAreTheSameForAnyThreads) {
  const TemporaryFolder folder;
  std::vector<std::string> files;
  for (const int threads : {1, 2, 7}) {
    const auto path = folder.path() / fmt::format("{}.gguf", threads);
    auto writer = GgufWriter::create(
        path, {}, {{"t", DType::kF32, {5, 8}, 160}, {"u", DType::kF32, {1, 8}, 32}});
    for (int tensor = 0; tensor < 2; ++tensor) {
      const Status status =
          writer->append_rows(threads, [](int64_t first, int64_t count, std::byte* out) {
            for (int64_t row = first; row < first + count; ++row) {
              for (int64_t column = 0; column < 8; ++column, out += 4) {
                const float value = static_cast<float>(8 * row + column);
                std::memcpy(out, &value, 4);
              }
            }
          });
      ASSERT_TRUE(status.ok());
    }
    ASSERT_TRUE(writer->finish().ok());
    files.push_back(read_file(path, 1 << 20).value());
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
  const auto model = open_model_file(folder.path() / "7.gguf");
  float last;
  std::memcpy(&last, (*model)->read("t")->view.data.data() + 156, 4);
  EXPECT_EQ(last, 39.0f);
}

TEST(GgufWriter, ReportsWhereItCannotWrite) {
  expect_error(GgufWriter::create("/no/such/folder/m.gguf", {}, {}).status(), ErrorCode::kIo,
               {"/no/such/folder/m.gguf"});
}

TEST(WeightTypes, FallBackWhereTheBlockDoesNotDivide) {
  EXPECT_EQ(fitting_dtype(DType::kQ4_K, 512), DType::kQ4_K);
  EXPECT_EQ(fitting_dtype(DType::kQ4_K, 896), DType::kQ8_0);
  EXPECT_EQ(fitting_dtype(DType::kQ4_0, 80), DType::kBF16);
  EXPECT_EQ(fitting_dtype(DType::kF16, 7), DType::kF16);
}

TEST(WeightTypes, TheMixKeepsTheSensitiveTensors) {
  const QuantMix mix = {DType::kQ4_K, 32, false};
  const Shape matrix = {512, 512};
  EXPECT_EQ(mixed_dtype(mix, "blk.0.attn_q.weight", matrix), DType::kQ4_K);
  EXPECT_EQ(mixed_dtype(mix, "blk.0.attn_v.weight", matrix), DType::kQ6_K);
  EXPECT_EQ(mixed_dtype(mix, "blk.4.ffn_down.weight", matrix), DType::kQ4_K);
  EXPECT_EQ(mixed_dtype(mix, "blk.6.ffn_down.weight", matrix), DType::kQ6_K);
  EXPECT_EQ(mixed_dtype(mix, "blk.31.ffn_down.weight", matrix), DType::kQ6_K);
  EXPECT_EQ(mixed_dtype(mix, "blk.4.attn_qkv.weight", matrix), DType::kQ5_K);
  EXPECT_EQ(mixed_dtype(mix, "output.weight", matrix), DType::kQ6_K);
  EXPECT_EQ(mixed_dtype(mix, "token_embd.weight", matrix), DType::kQ4_K);
  EXPECT_EQ(mixed_dtype({DType::kQ4_0, 32, true}, "token_embd.weight", matrix), DType::kQ6_K);
  EXPECT_EQ(mixed_dtype({DType::kQ8_0, 32, true}, "token_embd.weight", matrix), DType::kQ8_0);
  EXPECT_EQ(mixed_dtype(mix, "position_embd.weight", matrix), DType::kF32);
  EXPECT_EQ(mixed_dtype(mix, "blk.0.attn_norm.weight", {512}), DType::kF32);
  EXPECT_EQ(mixed_dtype(mix, "blk.0.attn_q.bias", {512}), DType::kF32);
  EXPECT_EQ(mixed_dtype(mix, "rope_freqs.weight", {64}), DType::kF32);
}

}  // namespace
}  // namespace quipu
