#include "text/stream_decoder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/random.h"
#include "base/utf8.h"
#include "text/test_gguf.h"

namespace quipu {
namespace {

const std::string kTiny = std::string(QUIPU_SOURCE_DIR) + "/tests/golden/tokenizers/tiny";
const std::string kVocabularies = std::string(QUIPU_SHARED_DIR) + "/data/tokenizers/gguf-vocab/";

// "llama": <unk> <s> </s>, 256 byte tokens, then a few words.
TokenizerSpec small_sentencepiece() {
  TokenizerSpec spec;
  spec.model = "llama";
  const auto add = [&spec](std::string token, TokenType type, float score) {
    spec.tokens.push_back(std::move(token));
    spec.token_types.push_back(static_cast<int32_t>(type));
    spec.scores.push_back(score);
  };
  add("<unk>", TokenType::kUnknown, 0);
  add("<s>", TokenType::kControl, 0);
  add("</s>", TokenType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) {
    add(fmt::format("<0x{:02X}>", byte), TokenType::kByte, 0);
  }
  const char* words[] = {"▁", "a", "b", "ab", "▁ab", "中", "▁中", "é", "▁▁", "😀"};
  float score = -1;
  for (const char* word : words) add(word, TokenType::kNormal, score -= 1);
  return spec;
}

std::unique_ptr<Tokenizer> make(TokenizerSpec spec) {
  auto made = Tokenizer::from_spec(std::move(spec));
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(made).value();
}

// Invariants 1 and 2 of stream_decoder.h, over random tokens.
void check_random(const Tokenizer& tokenizer, uint64_t seed) {
  Random random(seed);
  for (int round = 0; round < 2000; ++round) {
    const DecodeOptions options{.skip_special = random.next_below(2) == 0};
    const bool continued = random.next_below(2) == 0;
    StreamDecoder decoder(
        tokenizer, continued ? StreamDecoder::Start::kContinuation : StreamDecoder::Start::kText,
        options);
    std::vector<TokenId> ids;
    std::string streamed;
    for (uint64_t i = random.next_below(24); i > 0; --i) {
      // A few ids beyond the vocabulary: a model's rows are often padded.
      ids.push_back(static_cast<TokenId>(random.next_below(tokenizer.vocab_size() + 2)));
      const std::string text = decoder.push(ids.back());
      ASSERT_TRUE(is_valid_utf8(text)) << testing::PrintToString(text);
      streamed += text;
    }
    const std::string rest = decoder.finish();
    ASSERT_TRUE(is_valid_utf8(rest));
    streamed += rest;
    std::string whole;
    if (continued) {
      for (const TokenId id : ids) {
        if (!options.skip_special || !tokenizer.is_special(id)) whole += tokenizer.piece(id);
      }
      whole = repair_utf8(whole);
    } else {
      whole = tokenizer.decode(ids, options);
    }
    ASSERT_EQ(streamed, whole) << testing::PrintToString(ids);
  }
}

TEST(StreamDecoder, RandomTokensSentencePiece) { check_random(*make(small_sentencepiece()), 1); }

TEST(StreamDecoder, RandomTokensByteLevel) {
  auto tokenizer = Tokenizer::from_hf_directory(kTiny);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  check_random(**tokenizer, 2);
}

TEST(StreamDecoder, RandomTokensOfRealVocabularies) {
  for (const char* name : {"llama-spm", "gpt-2", "deepseek-llm"}) {
    const std::string file = kVocabularies + "ggml-vocab-" + name + ".gguf";
    if (!std::filesystem::exists(file)) GTEST_SKIP() << "not there, skipped: " << file;
    check_random(*make(test::read_gguf_spec(file)), 3);
  }
}

TEST(StreamDecoder, HoldsBackHalfACharacter) {
  const auto tokenizer = make(small_sentencepiece());
  StreamDecoder decoder(*tokenizer);
  const auto byte = [](int value) { return static_cast<TokenId>(3 + value); };
  EXPECT_EQ(decoder.push(byte(0xf0)), "");
  EXPECT_EQ(decoder.push(byte(0x9f)), "");
  EXPECT_EQ(decoder.push(byte(0x98)), "");
  EXPECT_EQ(decoder.push(byte(0x80)), "\xf0\x9f\x98\x80");
  EXPECT_EQ(decoder.push(byte(0xe4)), "");
  EXPECT_EQ(decoder.finish(), "\xef\xbf\xbd");
}

TEST(StreamDecoder, LeadingSpaceBelongsToContinuations) {
  const auto tokenizer = make(small_sentencepiece());
  const TokenId word = *tokenizer->find(" ab");
  StreamDecoder text(*tokenizer, StreamDecoder::Start::kText);
  EXPECT_EQ(text.push(1), "");  // <s> is not text
  EXPECT_EQ(text.push(word), "ab");
  EXPECT_EQ(text.push(word), " ab");
  StreamDecoder continuation(*tokenizer);
  EXPECT_EQ(continuation.push(word), " ab");
}

TEST(StreamDecoder, SpecialTokensOnRequest) {
  const auto tokenizer = make(small_sentencepiece());
  StreamDecoder shown(*tokenizer, StreamDecoder::Start::kText, {.skip_special = false});
  EXPECT_EQ(shown.push(2), "</s>");
}

}  // namespace
}  // namespace quipu
