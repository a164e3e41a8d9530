#include "kv/kv_formats.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kv/cache_spec.h"

namespace quipu {
namespace {

std::string by_layer(std::string_view text, int layers) {
  const Result<KvFormats> formats = KvFormats::parse(text);
  if (!formats.ok()) return formats.status().message();
  const Status status = formats->check(layers);
  return status.ok() ? kv_formats_by_layer(formats->resolve(layers)) : status.message();
}

TEST(KvFormats, OneForAllAndExceptions) {
  EXPECT_EQ(by_layer("int8", 4), "int8");
  EXPECT_EQ(by_layer("int8,first=bf16,last=bf16", 4), "0=bf16,1-2=int8,3=bf16");
  EXPECT_EQ(by_layer("int8,1-2=f32,2=bf16", 4), "0=int8,1=f32,2=bf16,3=int8");  // the later rule
  EXPECT_EQ(by_layer("first=f32", 3), "0=f32,1-2=bf16");  // without a format for all: the default
  EXPECT_EQ(by_layer("0=f32,last=int8", 1), "int8");
}

TEST(KvFormats, TextIsParsedAgain) {
  for (const char* text : {"int8", "f32,first=bf16,3=int8,5-7=int8,last=f32"}) {
    const KvFormats formats = KvFormats::parse(text).value();
    EXPECT_EQ(formats.to_string(), text);
    EXPECT_EQ(KvFormats::parse(formats.to_string()).value(), formats);
  }
}

TEST(KvFormats, ErrorsNameThePartAndWhatIsKnown) {
  for (const char* text : {"", "int3", "int8,", ",int8", "int8,bf16", "int8,=bf16", "int8,x=bf16",
                           "int8,3-1=bf16", "int8,-1=bf16", "int8,2=", "int8,1-=f32", "int8;f32",
                           "int8,99999999999=f32", " int8"}) {
    EXPECT_FALSE(KvFormats::parse(text).ok()) << text;
  }
  EXPECT_NE(by_layer("int3", 4).find("'int3' is not a KV format; known: f32, bf16, int8, int4"),
            std::string::npos);
  EXPECT_NE(by_layer("int8,4=bf16", 4).find("names layer 4; the model has 4 layers, 0 to 3"),
            std::string::npos);
}

// One scale of 16 bits for each token, head, and keys or values.
TEST(KvFormats, QuantisedBytesCountTheScales) {
  const auto bytes = [](const char* text, std::vector<KvLayerShape> layers, int block_tokens) {
    return make_kv_cache_spec(layers, KvFormats::parse(text).value(), block_tokens)
        .bytes_per_token();
  };
  // Llama 3 8B: 32 layers of 8 heads of 128.
  const std::vector<KvLayerShape> llama(32, {8, 128, 128});
  for (const int block_tokens : {16, 32, 256}) {
    EXPECT_EQ(bytes("int8", llama, block_tokens), 32u * 8 * (128 + 128 + 4));
  }
  EXPECT_EQ(bytes("int8,first=bf16,last=f32", llama, 32),
            8u * (30 * 260 + 2 * 256 + 4 * 256));
  EXPECT_EQ(bytes("int8", {{3, 33, 20}}, 16), 3u * (36 + 20 + 4));  // keys are padded to quads

  // Short keys stay bf16; values are codes with a scale, or with a scale and a minimum.
  EXPECT_EQ(bytes("int8", {{4, 8, 8}}, 32), 4u * (16 + 8 + 2));
  EXPECT_EQ(bytes("int4", {{4, 8, 8}}, 32), 4u * (16 + 4 + 4));
  EXPECT_EQ(bytes("int8", {{4, 15, 16}}, 32), 4u * (32 + 16 + 2));
  EXPECT_EQ(bytes("int8", {{4, 16, 16}}, 32), 4u * (16 + 2 + 16 + 2));

  // int4, keys: 4 bits, 32 of scale and minimum for each 32 elements, and a mean of 8 bits for each
  // 16 tokens (with a scale of 16 bits); values: 4 bits and 32 for each 64 elements.
  const double key = 128 * (4 + 1 + 0.5) / 8 + 2.0 / 16, value = 128 * (4 + 0.5) / 8;
  for (const int block_tokens : {16, 32, 256}) {
    EXPECT_EQ(bytes("int4", llama, block_tokens),
              static_cast<size_t>(std::ceil(32 * 8 * (key + value))));
  }
}

TEST(KvFormats, PartsOfABlockDoNotOverlap) {
  for (const KvFormat format : kKvFormats) {
    for (const auto& [key_dim, value_dim] : {std::pair{8, 8}, {33, 20}, {96, 80}, {128, 256}}) {
      for (const int block_tokens : {16, 64}) {
        const KvLayerLayout l = make_kv_layer_layout(format, 2, key_dim, value_dim, block_tokens);
        const auto tokens = static_cast<size_t>(block_tokens);
        EXPECT_GE(l.value_offset, tokens / kKvTileTokens * l.key_tile_bytes);
        EXPECT_EQ(l.value_offset % 64, 0u);
        EXPECT_EQ(l.head_bytes % 64, 0u);
        EXPECT_GE(l.head_bytes, l.used_bytes);
        if (format == KvFormat::kInt8) {
          EXPECT_EQ(l.key_scale_offset, l.value_offset + tokens / 4 * l.value_run_bytes);
          EXPECT_EQ(l.value_scale_offset, l.key_scale_offset + (key_dim < 16 ? 0 : 2 * tokens));
          EXPECT_GE(l.head_bytes, l.key_scale_offset + 64);  // room to read whole vectors
        }
        if (format == KvFormat::kInt4) {
          EXPECT_EQ(l.value_scale_offset, l.value_offset + tokens / 8 * l.value_run_bytes);
          EXPECT_GE(l.key_mean_offset, l.value_scale_offset + 64);
          EXPECT_LE(l.value_min_offset, l.key_mean_offset);
          EXPECT_EQ(l.key_mean_scale_offset,
                    l.key_mean_offset + tokens / 16 * (key_dim < 16 ? 0 : (key_dim + 3) / 4 * 4));
        }
      }
    }
  }
}

}  // namespace
}  // namespace quipu
