#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "text/test_gguf.h"

namespace quipu {
namespace {

const std::string kVocabularies = std::string(QUIPU_SHARED_DIR) + "/data/tokenizers/gguf-vocab/";

#define SKIP_WITHOUT(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "not there, skipped: " << (path)

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t at; (at = text.find(separator, start)) != std::string::npos;
       start = at + separator.size()) {
    parts.push_back(text.substr(start, at - start));
  }
  parts.push_back(text.substr(start));
  return parts;
}

std::unique_ptr<Tokenizer> make(TokenizerSpec spec) {
  auto made = Tokenizer::from_spec(std::move(spec));
  EXPECT_TRUE(made.ok()) << made.status().message();
  return made.ok() ? std::move(made).value() : nullptr;
}

// The published pairs: .inp has texts, .out a line of ids for each.
void compare_with_published(const Tokenizer& tokenizer, const std::string& name) {
  const std::string base = kVocabularies + "ggml-vocab-" + name + ".gguf";
  const auto texts = split(read_all(base + ".inp"), "\n__ggml_vocab_test__\n");
  const auto lines = split(read_all(base + ".out"), "\n");
  ASSERT_GE(lines.size(), texts.size());
  int equal = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<TokenId> expected;
    std::istringstream line(lines[i]);
    for (TokenId id; line >> id;) expected.push_back(id);
    const auto ids = tokenizer.encode(texts[i], {.add_special = false, .parse_special = false});
    ASSERT_TRUE(ids.ok()) << ids.status().message();
    EXPECT_EQ(*ids, expected) << name << ", text " << i << ": " << testing::PrintToString(texts[i]);
    equal += *ids == expected;
    EXPECT_EQ(tokenizer.decode_bytes(*ids), texts[i]) << name << ", text " << i;
  }
  std::cout << name << ": " << equal << " of " << texts.size() << " published texts equal\n";
}

class GgufVocabulary : public testing::TestWithParam<const char*> {};

TEST_P(GgufVocabulary, EqualsPublishedIds) {
  const std::string file = kVocabularies + "ggml-vocab-" + GetParam() + ".gguf";
  SKIP_WITHOUT(file);
  const auto tokenizer = make(test::read_gguf_spec(file));
  ASSERT_TRUE(tokenizer);
  compare_with_published(*tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Published, GgufVocabulary,
                         testing::Values("llama-spm", "phi-3", "gpt-2", "starcoder",
                                         "deepseek-llm"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(TiktokenRanks, Qwen2EqualsPublishedIds) {
  const std::string directory = std::string(QUIPU_SHARED_DIR) + "/data/tokenizers/qwen";
  SKIP_WITHOUT(directory + "/qwen.tiktoken");
  auto made = Tokenizer::from_hf_directory(directory);
  ASSERT_TRUE(made.ok()) << made.status().message();
  compare_with_published(**made, "qwen2");
}

}  // namespace
}  // namespace quipu
