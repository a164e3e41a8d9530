#include "format/safetensors.h"

#include "base/file.h"
#include "format/test_files.h"

namespace quipu {
namespace {

auto parse(std::string_view header, size_t data_bytes) {
  return parse_safetensors(as_byte_span(safetensors_bytes(header, data_bytes)), "x.safetensors");
}

void expect_refused(std::string_view header, size_t data_bytes, ErrorCode code,
                    std::initializer_list<std::string_view> parts) {
  const auto entries = parse(header, data_bytes);
  ASSERT_FALSE(entries.ok());
  expect_error(entries.status(), code, parts);
  expect_error(entries.status(), code, {"x.safetensors"});
}

TEST(Safetensors, ReadsTensorsByOffset) {
  const std::string_view header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("s":{"dtype":"I64","shape":[],"data_offsets":[20,28]}})";
  const auto entries = parse(header, 28);
  ASSERT_TRUE(entries.ok()) << entries.status().message();
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[1].dtype, DType::kBF16);
  EXPECT_EQ((*entries)[1].shape, (Shape{2, 3}));
  EXPECT_EQ((*entries)[1].offset, 8 + header.size() + 8);
  EXPECT_EQ((*entries)[2].dtype, std::nullopt);
  EXPECT_EQ((*entries)[2].bytes, 8u);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string bytes =
      safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(parse_safetensors(as_byte_span(bytes.substr(0, length)), "x").ok()) << length;
  }
  EXPECT_TRUE(parse_safetensors(as_byte_span(bytes), "x").ok());
}

TEST(Safetensors, RefusesBadHeaders) {
  const uint64_t length = ~uint64_t{0};
  const std::string absurd(reinterpret_cast<const char*>(&length), sizeof length);
  expect_error(parse_safetensors(as_byte_span(absurd), "x").status(), ErrorCode::kCorruptData,
               {"header length", "0 bytes left"});
  expect_refused("not json", 0, ErrorCode::kCorruptData, {"not valid JSON"});
  expect_refused(R"({"a":{"x":{"y":{"z":{}}}}})", 0, ErrorCode::kCorruptData, {"nests deeper"});
  expect_refused(R"({"a":1})", 0, ErrorCode::kCorruptData, {"'a'", "the number 1"});
  expect_refused(R"({"a":{"dtype":"F32"}})", 0, ErrorCode::kCorruptData,
                 {"'a'", "dtype, shape and data_offsets"});
  expect_refused(R"({"":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4,
                 ErrorCode::kCorruptData, {"empty name"});
}

TEST(Safetensors, RefusesBadTensors) {
  expect_refused(R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})", 1,
                 ErrorCode::kUnsupported, {"'a' has type F4", "supported: F32, F16, BF16"});
  expect_refused(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8,
                 ErrorCode::kCorruptData, {"'a'", "sizes"});
  expect_refused(R"({"a":{"dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[0,8]}})", 8,
                 ErrorCode::kCorruptData, {"63 bits"});
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8,
                 ErrorCode::kCorruptData, {"[begin, end]"});
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7,
                 ErrorCode::kCorruptData, {"ends at 8", "7 bytes"});
  expect_refused(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8,
                 ErrorCode::kCorruptData, {"F32 of [3] takes 12 bytes", "hold 8"});
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                 R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                 12, ErrorCode::kCorruptData, {"'a'", "'b'", "overlap"});
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                 R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                 8, ErrorCode::kCorruptData, {"'a'", "twice"});
}

TEST(SafetensorsShared, ReadsRealFiles) {
  const std::filesystem::path folder =
      std::filesystem::path(QUIPU_SHARED_DIR) / "data/vectors/candle";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  for (const char* name : {"jfk-codes.safetensors", "voices.safetensors"}) {
    const MappedFile file = MappedFile::open(folder / name).value();
    const auto entries = parse_safetensors(file.bytes(), name);
    ASSERT_TRUE(entries.ok()) << entries.status().message();
    EXPECT_GE(entries->size(), 1u);
  }
}

}  // namespace
}  // namespace quipu
