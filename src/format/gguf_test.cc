#include "format/gguf.h"

#include <cstdlib>

#include "base/file.h"
#include "base/units.h"
#include "format/model_file.h"
#include "format/printable.h"
#include "format/test_files.h"

namespace quipu {
namespace {

constexpr uint32_t kU32 = 4, kF32Value = 6, kBool = 7, kString = 8, kArray = 9;

Result<GgufContents> parse(const GgufBytes& file) {
  return parse_gguf(as_byte_span(file.bytes()), "x.gguf");
}

void expect_refused(const GgufBytes& file, ErrorCode code,
                    std::initializer_list<std::string_view> parts) {
  const auto contents = parse(file);
  ASSERT_FALSE(contents.ok());
  expect_error(contents.status(), code, parts);
  expect_error(contents.status(), code, {"x.gguf"});
}

GgufBytes one_tensor(uint32_t version = 3, uint32_t type = 0, uint64_t offset = 0) {
  GgufBytes file(version, 1, 1);
  file.key("general.architecture", kString)
      .string("llama")
      .tensor("a.weight", {32, 2}, type, offset)
      .pad()
      .data(256);
  return file;
}

class EveryVersion : public testing::TestWithParam<uint32_t> {};

TEST_P(EveryVersion, ReadsValuesOfEveryTypeAndTensors) {
  const std::string path =
      fmt::format("{}/tests/fuzz/corpus/gguf/v{}", QUIPU_SOURCE_DIR, GetParam());
  const std::string bytes = read_file(path, kMiB).value();
  const auto contents = parse_gguf(as_byte_span(bytes), path);
  ASSERT_TRUE(contents.ok()) << contents.status().message();
  EXPECT_EQ(contents->version, GetParam());
  const Metadata& metadata = contents->metadata;
  EXPECT_EQ(metadata.get_string("general.architecture"), "llama");
  EXPECT_EQ(metadata.get_int("u8"), 7);
  EXPECT_EQ(metadata.get_int("i8"), -7);
  EXPECT_EQ(metadata.get_int("u16"), 700);
  EXPECT_EQ(metadata.get_int("i16"), -700);
  EXPECT_EQ(metadata.get_int("u32"), 70000);
  EXPECT_EQ(metadata.get_int("i32"), -70000);
  EXPECT_EQ(metadata.get_double("f32"), 0.5);
  EXPECT_EQ(metadata.get_bool("bool"), true);
  EXPECT_EQ(metadata.get_int("u64"), int64_t{1} << 40);
  EXPECT_EQ(metadata.get_int("i64"), -(int64_t{1} << 40));
  EXPECT_EQ(metadata.get_double("f64"), 0.1);
  // Token texts may be any bytes: byte tokens are not UTF-8.
  EXPECT_EQ(metadata.get_strings("tokenizer.ggml.tokens"),
            (std::vector<std::string>{"a", "中", "\xff"}));
  EXPECT_EQ(metadata.get_doubles("tokenizer.ggml.scores"), (std::vector<double>{0, -1, -2}));
  EXPECT_EQ(metadata.get_ints("tokenizer.ggml.token_type"), (std::vector<int64_t>{0, 1, 2}));
  ASSERT_EQ(contents->tensors.size(), 5u);
  EXPECT_EQ(contents->tensors[0].shape, (Shape{3, 8}));
  EXPECT_EQ(contents->tensors[2].dtype, DType::kQ8_0);
  EXPECT_EQ(contents->tensors[3].shape, (Shape{2, 1, 1, 256}));
  EXPECT_EQ(contents->tensors[3].bytes, 288u);
  EXPECT_EQ(contents->tensors[4].dtype, DType::kBF16);
  EXPECT_EQ(contents->tensors[0].offset % 32, 0u);
}

INSTANTIATE_TEST_SUITE_P(Gguf, EveryVersion, testing::Values(1, 2, 3));

TEST_P(EveryVersion, EveryTruncationIsRefused) {
  const std::string path =
      fmt::format("{}/tests/fuzz/corpus/gguf/v{}", QUIPU_SOURCE_DIR, GetParam());
  const std::string bytes = read_file(path, kMiB).value();
  // The last tensor's padding may be absent, its 12 bytes may not.
  const size_t last_byte = bytes.size() - 32 + 12;
  for (size_t length = 0; length < last_byte; ++length) {
    const std::string part = bytes.substr(0, length);
    const auto contents = parse_gguf(as_byte_span(part), path);
    ASSERT_FALSE(contents.ok()) << length;
    EXPECT_EQ(contents.status().code(), ErrorCode::kCorruptData) << contents.status().message();
  }
  EXPECT_TRUE(parse_gguf(as_byte_span(bytes.substr(0, last_byte)), path).ok());
}

TEST(Gguf, RefusesOtherFilesAndVersions) {
  expect_refused(GgufBytes(3, 0, 0, "GGML"), ErrorCode::kCorruptData, {"'GGUF'", "'GGML'"});
  expect_refused(GgufBytes(4, 0, 0), ErrorCode::kUnsupported, {"version 4", "1 to 3"});
  expect_refused(GgufBytes(0x03000000, 0, 0), ErrorCode::kUnsupported, {"big-endian"});
}

TEST(Gguf, SaysWhatAnotherFileSeemsToBe) {
  const auto message = [](std::string_view bytes) {
    std::string file(bytes);
    file.resize(std::max<size_t>(file.size(), 100), ' ');
    const auto contents = parse_gguf(as_byte_span(file), "file");
    EXPECT_FALSE(contents.ok());
    return contents.status().message();
  };
  const auto expect = [&](std::string_view bytes, std::string_view found, std::string_view guess) {
    const std::string text = message(bytes);
    EXPECT_NE(text.find(fmt::format("found '{}'", found)), std::string::npos) << text;
    EXPECT_NE(text.find(guess), std::string::npos) << text;
    for (const char c : text) EXPECT_TRUE(c >= 0x20 && c < 0x7F) << text;
  };
  expect("\x1f\x8b\x08", "\\x1f\\x8b\\x08 ", "compressed");
  expect("PK\x03\x04", "PK\\x03\\x04", "ZIP");
  expect("<!DOCTYPE html>", "<!DO", "web page");
  expect("\n\n <HTML>", "\\x0a\\x0a <", "web page");
  expect("version https://git-lfs.github.com/spec/v1\noid", "vers", "git lfs pull");
  expect(std::string_view("\x40\x01\0\0\0\0\0\0{\"a\"", 12), "@\\x01\\x00\\x00",
         "give the directory");
  expect("tjgg", "tjgg", "before GGUF");
  expect("\x1b[31", "\\x1b[31", "");
  EXPECT_EQ(message("hello").find("seems"), std::string::npos);
  EXPECT_NE(message(std::string(100, '\0')).find("cut off"), std::string::npos);
  EXPECT_EQ(printable("a\xC2\x9B\x31\xC2\xA0z"), "a?1\xC2\xA0z");  // C1's CSI, a wide space
}

TEST(Gguf, AbsurdCountsAreRefusedBeforeAnythingIsReserved) {
  for (const uint64_t count : {uint64_t{1000000}, uint64_t{1} << 40, ~uint64_t{0}}) {
    expect_refused(GgufBytes(3, count, 0), ErrorCode::kCorruptData,
                   {"tensor table", "the count is"});
    expect_refused(GgufBytes(3, 0, count), ErrorCode::kCorruptData,
                   {"metadata keys", "the count is"});
    GgufBytes strings(3, 0, 1);
    expect_refused(strings.key("k", kArray).number(kString).size(count), ErrorCode::kCorruptData,
                   {"k at offset"});
    GgufBytes numbers(3, 0, 1);
    expect_refused(numbers.key("k", kArray).number(kU32).size(count), ErrorCode::kCorruptData,
                   {"k at offset"});
    GgufBytes text(3, 0, 1);
    expect_refused(text.key("k", kString).size(count), ErrorCode::kCorruptData, {"more bytes"});
    GgufBytes name(3, 0, 1);
    expect_refused(name.size(count).data(20), ErrorCode::kCorruptData, {"metadata key"});
  }
}

TEST(Gguf, RefusesBadKeysAndValues) {
  GgufBytes duplicate(3, 0, 2);
  expect_refused(duplicate.key("k", kU32).number(1u).key("k", kU32).number(2u),
                 ErrorCode::kCorruptData, {"'k'", "twice"});
  GgufBytes not_text(3, 0, 1);
  expect_refused(not_text.key("k\xff", kU32).number(1u), ErrorCode::kCorruptData,
                 {"not valid UTF-8 at byte 1"});
  GgufBytes empty(3, 0, 1);
  expect_refused(empty.key("", kU32).number(1u).data(16), ErrorCode::kCorruptData,
                 {"1 to 65535 bytes, found 0"});
  GgufBytes type(3, 0, 1);
  expect_refused(type.key("k", 13).number(1u), ErrorCode::kCorruptData,
                 {"'k'", "0 to 12, found 13"});
  GgufBytes nested(3, 0, 1);
  expect_refused(nested.key("k", kArray).number(kArray).size(1).data(64), ErrorCode::kUnsupported,
                 {"'k'", "arrays inside arrays"});
  GgufBytes boolean(3, 0, 1);
  expect_refused(boolean.key("k", kBool).number(uint8_t{2}), ErrorCode::kCorruptData,
                 {"0 or 1, found 2"});
}

TEST(Gguf, RefusesBadAlignment) {
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 30}) {
    GgufBytes file(3, 0, 1);
    expect_refused(file.key("general.alignment", kU32).number(alignment), ErrorCode::kCorruptData,
                   {"general.alignment", "power of two", std::to_string(alignment)});
  }
  GgufBytes typed(3, 0, 1);
  expect_refused(typed.key("general.alignment", kF32Value).number(32.0f), ErrorCode::kCorruptData,
                 {"general.alignment", "the number 32"});
}

TEST(Gguf, NamesTensorAndTypeThatItCannotRead) {
  expect_refused(one_tensor(3, 16), ErrorCode::kUnsupported,
                 {"tensor 'a.weight' has type iq2_xxs", "supported: f32, f16"});
  expect_refused(one_tensor(3, 4000000000u), ErrorCode::kUnsupported, {"type 4000000000"});
}

TEST(Gguf, RefusesBadShapes) {
  GgufBytes zero(3, 1, 0);
  expect_refused(zero.tensor("t", {32, 0}, 0, 0).pad(), ErrorCode::kCorruptData,
                 {"'t'", "dimension 1 is 0"});
  GgufBytes none(3, 1, 0);
  expect_refused(none.tensor("t", {}, 0, 0).pad(), ErrorCode::kCorruptData,
                 {"1 to 4 dimensions, found 0"});
  GgufBytes five(3, 1, 0);
  expect_refused(five.tensor("t", {1, 1, 1, 1, 1}, 0, 0).pad(), ErrorCode::kCorruptData,
                 {"found 5"});
  GgufBytes overflow(3, 1, 0);
  expect_refused(overflow.tensor("t", {uint64_t{1} << 33, uint64_t{1} << 33}, 0, 0).pad(),
                 ErrorCode::kCorruptData, {"2^62"});
  GgufBytes bytes_overflow(3, 1, 0);
  expect_refused(bytes_overflow.tensor("t", {(uint64_t{1} << 62) - 1}, 0, 0).pad(),
                 ErrorCode::kCorruptData, {"'t'"});
  GgufBytes partial(3, 1, 0);
  expect_refused(partial.tensor("t", {128, 2}, 12, 0).pad().data(1024), ErrorCode::kCorruptData,
                 {"'t' [2, 128]", "q4_k's block of 256"});
}

TEST(Gguf, RefusesBadPlaces) {
  expect_refused(one_tensor(3, 0, 8), ErrorCode::kCorruptData,
                 {"'a.weight'", "offset 8", "alignment 32"});
  expect_refused(one_tensor(3, 0, 32), ErrorCode::kCorruptData,
                 {"'a.weight' f32 [2, 32]", "end past the end"});
  expect_refused(one_tensor(3, 0, ~uint64_t{31}), ErrorCode::kCorruptData, {"end past the end"});
  GgufBytes overlap(3, 2, 0);
  expect_refused(overlap.tensor("a", {16}, 0, 0).tensor("b", {16}, 0, 32).pad().data(256),
                 ErrorCode::kCorruptData, {"'a'", "'b'", "overlap"});
  GgufBytes same_name(3, 2, 0);
  expect_refused(same_name.tensor("a", {16}, 0, 0).tensor("a", {16}, 0, 64).pad().data(256),
                 ErrorCode::kCorruptData, {"tensor 'a'", "twice"});
}

TEST(Gguf, HostileNamesDoNotReachTheTerminal) {
  GgufBytes file(3, 1, 0);
  const auto contents = parse(file.tensor("\x1b[31mred\n", {0}, 0, 0).pad());
  ASSERT_FALSE(contents.ok());
  EXPECT_EQ(contents.status().message().find('\x1b'), std::string::npos);
  EXPECT_EQ(contents.status().message().find('\n'), std::string::npos);
}

TEST(GgufModel, ReadsTensorsAndNamesTheNearest) {
  const TemporaryFolder folder;
  const auto model = open_model_file(folder.write("m.gguf", one_tensor().bytes()));
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->container(), "gguf v3");
  const TensorData data = (*model)->read("a.weight").value();
  EXPECT_EQ(data.view.shape, (Shape{2, 32}));
  EXPECT_EQ(data.view.data[5], std::byte{5});
  EXPECT_EQ(data.owned.size(), 0u);
  (*model)->release("a.weight");
  (*model)->release("absent");
  expect_error((*model)->read("a.weihgt").status(), ErrorCode::kNotFound,
               {"'a.weihgt'", "nearest", "'a.weight'"});
}

TEST(GgufModel, UnalignedDataIsCopied) {
  GgufBytes file(3, 2, 1);
  file.key("general.alignment", kU32).number(1u).tensor("b", {3}, 1, 0).tensor("f", {2}, 0, 6);
  const size_t header = file.bytes().size();
  file.data(14);
  const TemporaryFolder folder;
  const auto model = open_model_file(folder.write("m.gguf", file.bytes()));
  ASSERT_TRUE(model.ok()) << model.status().message();
  const TensorData data = (*model)->read("f").value();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data.view.data.data()) % 4, 0u);
  EXPECT_EQ(data.view.data[0], std::byte{6});
  EXPECT_EQ(data.owned.size() != 0, (header + 6) % 4 != 0);
}

// Parts of a split set.
std::string part_bytes(int number, int count, uint64_t total, std::string_view tensor) {
  GgufBytes file(3, 1, 3);
  file.key("split.no", 2).number(static_cast<uint16_t>(number));
  file.key("split.count", 2).number(static_cast<uint16_t>(count));
  file.key("split.tensors.count", 5).number(static_cast<int32_t>(total));
  file.tensor(tensor, {32}, 0, 0).pad().data(128);
  return file.bytes();
}

TEST(GgufModel, FindsTheOtherFilesOfASplitSet) {
  const TemporaryFolder folder;
  const auto first = folder.write("m-00001-of-00002.gguf", part_bytes(0, 2, 2, "a"));
  expect_error(open_model_file(first).status(), ErrorCode::kNotFound,
               {"m-00002-of-00002.gguf", "missing", "file 2"});
  const auto second = folder.write("m-00002-of-00002.gguf", part_bytes(1, 2, 2, "b"));
  const auto model = open_model_file(first);
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->container(), "gguf v3, 2 files");
  EXPECT_EQ((*model)->tensors().size(), 2u);
  EXPECT_TRUE((*model)->read("b").ok());
  expect_error(open_model_file(second).status(), ErrorCode::kInvalidArgument,
               {"file 2", "m-00001-of-00002.gguf"});

  folder.write("m-00002-of-00002.gguf", part_bytes(1, 2, 2, "a"));
  expect_error(open_model_file(first).status(), ErrorCode::kCorruptData, {"'a'", "earlier file"});
  folder.write("m-00002-of-00002.gguf", part_bytes(0, 2, 2, "b"));
  expect_error(open_model_file(first).status(), ErrorCode::kCorruptData,
               {"split.no 1", "not of one set"});
  folder.write("m-00001-of-00002.gguf", part_bytes(0, 2, 9, "a"));
  folder.write("m-00002-of-00002.gguf", part_bytes(1, 2, 9, "b"));
  expect_error(open_model_file(first).status(), ErrorCode::kCorruptData,
               {"split.tensors.count", "9", "2 tensors"});
  expect_error(open_model_file(folder.write("m.gguf", part_bytes(0, 2, 2, "a"))).status(),
               ErrorCode::kCorruptData, {"-00001-of-00002.gguf"});
}

TEST(GgufModel, SaysWhatIsWrongWithThePath) {
  const TemporaryFolder folder;
  expect_error(open_model_file(folder.path() / "none.gguf").status(), ErrorCode::kNotFound,
               {"none.gguf"});
  expect_error(open_model_file(folder.write("empty.gguf", "")).status(), ErrorCode::kCorruptData,
               {"empty.gguf"});
  expect_error(open_model_file(folder.write("model.safetensors", "x")).status(),
               ErrorCode::kInvalidArgument, {"directory"});
  expect_error(
      open_model_file(folder.write("a.gguf", one_tensor().bytes()), {.weights = DType::kQ8_0})
          .status(),
      ErrorCode::kInvalidArgument, {"quipu quantize"});
}

TEST(GgufShared, ReadsRealFiles) {
  const std::filesystem::path shared = std::filesystem::path(QUIPU_SHARED_DIR) / "data";
  const auto stories = shared / "weights/stories260K/tinyllamas-stories-260k-f32.gguf";
  if (!std::filesystem::exists(stories)) GTEST_SKIP() << "no " << stories;
  const auto model = open_model_file(stories);
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->container(), "gguf v1");
  EXPECT_EQ((*model)->tensors().size(), 48u);
  EXPECT_EQ((*model)->metadata().get_int("llama.embedding_length"), 64);
  EXPECT_EQ((*model)->find("blk.0.attn_k.weight")->shape, (Shape{32, 64}));
  EXPECT_EQ((*model)->metadata().get_strings("tokenizer.ggml.tokens")->size(), 512u);
  size_t vocabularies = 0;
  for (const auto& entry : std::filesystem::directory_iterator(shared / "tokenizers/gguf-vocab")) {
    if (entry.path().extension() != ".gguf") continue;
    const auto vocabulary = open_model_file(entry.path());
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status().message();
    EXPECT_GT((*vocabulary)->metadata().get_strings("tokenizer.ggml.tokens")->size(), 30000u)
        << entry.path();
    ++vocabularies;
  }
  EXPECT_GE(vocabularies, 5u);
}

TEST(GgufShared, ConvertedLlama2cEqualsTheGgufOfTheSameModel) {
  const std::filesystem::path shared =
      std::filesystem::path(QUIPU_SHARED_DIR) / "data/weights/stories260K";
  if (!std::filesystem::exists(shared)) GTEST_SKIP() << "no " << shared;
  if (std::system("python3 --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no python3";
  const TemporaryFolder folder;
  const auto path = folder.path() / "m.gguf";
  const std::string command = fmt::format(
      "python3 '{}/tools/convert/llama2c_to_gguf.py' '{}' '{}' '{}' > /dev/null", QUIPU_SOURCE_DIR,
      (shared / "stories260K.bin").string(), (shared / "tok512.bin").string(), path.string());
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto converted = open_model_file(path);
  const auto original = open_model_file(shared / "tinyllamas-stories-260k-f32.gguf");
  ASSERT_TRUE(converted.ok()) << converted.status().message();
  ASSERT_TRUE(original.ok()) << original.status().message();
  for (const TensorInfo& tensor : (*original)->tensors()) {
    // That file repeats the tied head.
    const bool head = tensor.name == "output.weight";
    const TensorData found = (*converted)->read(head ? "token_embd.weight" : tensor.name).value();
    const TensorData expected = (*original)->read(tensor.name).value();
    EXPECT_EQ(found.view.shape, expected.view.shape) << tensor.name;
    ASSERT_EQ(found.view.data.size(), expected.view.data.size()) << tensor.name;
    EXPECT_EQ(std::memcmp(found.view.data.data(), expected.view.data.data(), tensor.bytes), 0)
        << tensor.name;
  }
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                          "tokenizer.ggml.token_type", "llama.attention.head_count_kv",
                          "llama.rope.dimension_count", "tokenizer.ggml.eos_token_id"}) {
    ASSERT_NE((*converted)->metadata().find(key), nullptr) << key;
    EXPECT_EQ(*(*converted)->metadata().find(key), *(*original)->metadata().find(key)) << key;
  }
}

}  // namespace
}  // namespace quipu
