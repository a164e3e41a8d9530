#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

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

// Vocabularies that need no other data.
TokenizerSpec byte_level_spec() {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) {
    // GPT-2's printable form: 68 bytes move to U+0100 and up.
    static int moved;
    if (byte == 0) moved = 0;
    const bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const int code = itself ? byte : 0x100 + moved++;
    std::string token;
    if (code < 0x80) {
      token = static_cast<char>(code);
    } else {
      token = {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
    }
    spec.tokens.push_back(token);
  }
  for (const char* token : {"he", "ll", "llo", "hello", "Ġhello"}) spec.tokens.emplace_back(token);
  spec.merges = {"h e", "l l", "ll o", "he llo", "Ġ hello"};
  spec.token_types.assign(spec.tokens.size(), 1);
  for (const char* token : {"<s>", "<|im_end|>"}) {
    spec.tokens.emplace_back(token);
    spec.token_types.push_back(3);
  }
  spec.tokens.emplace_back("[tool]");
  spec.token_types.push_back(4);
  spec.bos = 261;
  return spec;
}

TEST(Tokenizer, MergesByRank) {
  const auto tokenizer = make(byte_level_spec());
  EXPECT_EQ(*tokenizer->encode("hello hello"), (std::vector<TokenId>{259, 260}));
  EXPECT_EQ(tokenizer->piece(260), " hello");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{259, 260}), "hello hello");
}

TEST(Tokenizer, ControlTokensComeFromTextOnlyOnRequest) {
  const auto tokenizer = make(byte_level_spec());
  EXPECT_EQ(*tokenizer->encode("hello<|im_end|>"), (std::vector<TokenId>{259, 262}));
  const auto plain = *tokenizer->encode("hello<|im_end|>", {.parse_special = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 262), 0);
  EXPECT_EQ(tokenizer->decode(plain), "hello<|im_end|>");
  // User-defined tokens are part of any text.
  EXPECT_EQ(tokenizer->encode("[tool]", {.parse_special = false})->size(), 1U);
  EXPECT_TRUE(tokenizer->is_special(262));
  EXPECT_FALSE(tokenizer->is_special(263));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{259, 262}), "hello");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{259, 262}, {.skip_special = false}),
            "hello<|im_end|>");
}

TEST(Tokenizer, CharactersAreLookedUpOneByOne) {
  TokenizerSpec spec;
  spec.model = "characters";
  spec.tokens = {"<blank>", "<s>", "</s>", "\u0622", "a", " ", "\u064e", "<unk>"};
  spec.token_types = {3, 3, 3, 1, 1, 1, 1, 2};
  spec.bos = 1;
  spec.eos = 2;
  spec.unknown = 7;
  const auto tokenizer = make(spec);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(*tokenizer->encode("\u0622a\u064e a"), (std::vector<TokenId>{3, 4, 6, 5, 4}));
  EXPECT_EQ(*tokenizer->encode("azA"), (std::vector<TokenId>{4, 7, 7}));
  EXPECT_EQ(*tokenizer->encode("a</s>"), (std::vector<TokenId>{4, 2}));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{1, 3, 6, 4, 7, 2}),
            "\u0622\u064e"
            "a");
  EXPECT_EQ(tokenizer->eos_ids().size(), 1u);
  spec.unknown = std::nullopt;
  spec.token_types.back() = 3;
  EXPECT_EQ(*make(spec)->encode("azA"), (std::vector<TokenId>{4}));
  spec.tokens[4] = "ab";
  EXPECT_NE(Tokenizer::from_spec(spec).status().message().find("'ab'"), std::string::npos);
}

TEST(Tokenizer, BosIsAddedWhenTheModelWantsIt) {
  TokenizerSpec spec = byte_level_spec();
  EXPECT_FALSE(make(spec)->adds_bos());
  spec.add_bos = true;
  EXPECT_EQ(*make(spec)->encode("hello"), (std::vector<TokenId>{261, 259}));
  EXPECT_EQ(*make(spec)->encode("hello", {.add_special = false}), (std::vector<TokenId>{259}));
  EXPECT_EQ(make(spec)->special_texts().bos, "<s>");
}

TEST(Tokenizer, EndsOfTurnAreKnownByIdAndName) {
  TokenizerSpec spec = byte_level_spec();
  spec.eos = 261;
  spec.eot = 0;
  const auto tokenizer = make(spec);
  EXPECT_EQ(std::vector<TokenId>(tokenizer->eos_ids().begin(), tokenizer->eos_ids().end()),
            (std::vector<TokenId>{0, 261, 262}));
  EXPECT_TRUE(tokenizer->is_eos(262));
  EXPECT_FALSE(tokenizer->is_eos(259));
}

// Every byte string comes back, valid UTF-8 or not.
void check_bytes_round_trip(const Tokenizer& tokenizer) {
  std::vector<std::string> texts = {
      "\xff", "a\xffz", "\xe4\xb8", "\xe4\xb8 hello", "\xf0\x9f\x98", "\x80\x80\xc0\xaf",
      std::string("nul\0in\0it", 9), "\xed\xa0\x80 surrogate", " \xff ", "hello\xfe hello"};
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  texts.push_back(all);
  for (const std::string& text : texts) {
    const auto ids = tokenizer.encode(text, {.add_special = false, .parse_special = false});
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(tokenizer.decode_bytes(*ids), text) << testing::PrintToString(text);
  }
}

TEST(Tokenizer, InvalidUtf8RoundTrips) {
  check_bytes_round_trip(*make(byte_level_spec()));
  auto tiny = Tokenizer::from_hf_directory(std::string(QUIPU_SOURCE_DIR) +
                                           "/tests/golden/tokenizers/tiny");
  ASSERT_TRUE(tiny.ok()) << tiny.status().message();
  check_bytes_round_trip(**tiny);
}

TEST(Tokenizer, InvalidUtf8RoundTripsInRealVocabularies) {
  for (const char* name : {"llama-spm", "phi-3", "gpt-2"}) {
    const std::string file = kVocabularies + "ggml-vocab-" + name + ".gguf";
    SKIP_WITHOUT(file);
    check_bytes_round_trip(*make(test::read_gguf_spec(file)));
  }
  // These lack tokens for bytes that no UTF-8 text has.
  for (const char* name : {"starcoder", "deepseek-llm"}) {
    const auto tokenizer = make(test::read_gguf_spec(kVocabularies + "ggml-vocab-" + name + ".gguf"));
    EXPECT_EQ(tokenizer->decode(*tokenizer->encode("a\xffz ÿ", {.add_special = false})),
              "a\xef\xbf\xbdz ÿ");
  }
}

TEST(Tokenizer, ThreadsMayMixSettings) {
  auto made = Tokenizer::from_hf_directory(std::string(QUIPU_SOURCE_DIR) +
                                           "/tests/golden/tokenizers/tiny");
  ASSERT_TRUE(made.ok());
  const Tokenizer& tokenizer = **made;
  const std::string text = "a<|im_end|>b";
  const auto parsed = *tokenizer.encode(text);
  const auto plain = *tokenizer.encode(text, {.parse_special = false});
  ASSERT_NE(parsed, plain);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 500; ++round) {
        const bool special = (round + i) % 2 == 0;
        EXPECT_EQ(*tokenizer.encode(text, {.parse_special = special}), special ? parsed : plain);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Tokenizer, LongTextsTakeLinearTime) {
  const auto tokenizer = make(byte_level_spec());
  for (const char* part : {" ", "a", "hello ", "\n", "中", "1", "'"}) {
    std::string text;
    while (text.size() < 1'000'000) text += part;
    const auto ids = tokenizer->encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status().message();
    EXPECT_EQ(tokenizer->decode(*ids), text);
  }
}

TEST(Tokenizer, Stories260KDecodesItsVocabulary) {
  const std::string file =
      std::string(QUIPU_SHARED_DIR) + "/data/weights/stories260K/tinyllamas-stories-260k-f32.gguf";
  SKIP_WITHOUT(file);
  const auto tokenizer = make(test::read_gguf_spec(file));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 512U);
  const auto ids = *tokenizer->encode("Once upon a time, there was a little girl");
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(tokenizer->decode(ids), "Once upon a time, there was a little girl");
}

}  // namespace
}  // namespace quipu
