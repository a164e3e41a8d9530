#include <gtest/gtest.h>

#include "format/model_file.h"

namespace quipu {
namespace {

TEST(GgufShared, ReadsRealVersion1File) {
  const std::filesystem::path path =
      std::filesystem::path(QUIPU_SHARED_DIR) / "data/weights/stories260K/tinyllamas-stories-260k-f32.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path;
  const auto model = open_model_file(path);
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->container(), "gguf v1");
  EXPECT_EQ((*model)->tensors().size(), 48u);
  EXPECT_EQ((*model)->metadata().get_int("llama.embedding_length"), 64);
  const TensorInfo* k = (*model)->find("blk.0.attn_k.weight");
  ASSERT_NE(k, nullptr);
  EXPECT_EQ(k->shape, (Shape{32, 64}));
}

}  // namespace
}  // namespace quipu
