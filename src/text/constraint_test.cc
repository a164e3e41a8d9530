#include "text/constraint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/random.h"
#include "text/test_gguf.h"
#include "text/tool_format.h"

namespace quipu {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

const fs::path kData = fs::path(QUIPU_SHARED_DIR) / "data" / "tokenizers";

std::unique_ptr<Tokenizer> tiny_tokenizer() {
  return Tokenizer::from_hf_directory(fs::path(QUIPU_SOURCE_DIR) / "models" / "tokenizer").value();
}

bool allows(const std::vector<uint32_t>& words, TokenId id) {
  return (words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0;
}

std::vector<TokenId> allowed_tokens(const std::vector<uint32_t>& words, size_t vocabulary) {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < static_cast<TokenId>(vocabulary); ++id) {
    if (allows(words, id)) ids.push_back(id);
  }
  return ids;
}

// An output of tokens drawn from those that are allowed; it ends as soon as it may.
std::string draw(const Tokenizer& tokenizer, const Constraint& compiled, uint64_t seed) {
  Constraint state = compiled.duplicate().value();
  std::vector<uint32_t> words((tokenizer.vocab_size() + 31) / 32);
  Random random(seed);
  std::vector<TokenId> output;
  while (!state.is_complete() && output.size() < 400) {
    const Status status = state.allowed(words);
    EXPECT_TRUE(status.ok()) << status.message();
    const std::vector<TokenId> ids = allowed_tokens(words, tokenizer.vocab_size());
    if (!status.ok() || ids.empty()) break;
    const bool may_end = state.may_end().value();
    for (const TokenId id : tokenizer.eos_ids()) EXPECT_EQ(allows(words, id), may_end);
    if (may_end) break;
    output.push_back(ids[random.next_below(ids.size())]);
    EXPECT_FALSE(tokenizer.is_special(output.back())) << tokenizer.piece(output.back());
    EXPECT_TRUE(state.accept(output.back()).ok());
  }
  std::string text;
  for (const TokenId id : output) text += tokenizer.piece(id);
  return text;
}

constexpr const char* kSchema = R"({"type": "object", "required": ["name", "age", "tags"],
  "properties": {"name": {"type": "string", "maxLength": 8},
                 "age": {"type": "integer", "minimum": 0, "maximum": 120},
                 "tags": {"type": "array", "maxItems": 3, "items": {"enum": ["é", "b c", "日本"]}}}})";

void expect_follows_schema(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(json.is_object()) << text;
  ASSERT_EQ(json.size(), 3u) << text;
  EXPECT_TRUE(json["name"].is_string());
  EXPECT_TRUE(json["age"].is_number_integer() && json["age"] >= 0 && json["age"] <= 120) << text;
  EXPECT_LE(json["tags"].size(), 3u);
  for (const Json& tag : json["tags"]) EXPECT_TRUE(tag == "é" || tag == "b c" || tag == "日本");
}

void expect_constrains(const Tokenizer& tokenizer) {
  ConstraintCompiler compiler(tokenizer);
  const auto schema = compiler.compile({ConstraintKind::kJsonSchema, kSchema});
  ASSERT_TRUE(schema.ok()) << schema.status().message();
  for (uint64_t seed = 0; seed < 10; ++seed) expect_follows_schema(draw(tokenizer, *schema, seed));
  const auto regex = compiler.compile({ConstraintKind::kRegex, "[0-9]{3}-[x-z]{2} 日"});
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const std::string text = draw(tokenizer, *regex, seed);
    ASSERT_EQ(text.size(), 10u) << text;
    EXPECT_EQ(text.substr(3, 1), "-");
    EXPECT_EQ(text.substr(6), " 日");
  }
  const auto choice = compiler.compile({ConstraintKind::kChoice, R"(["yes", "no, never"])"});
  const std::string chosen = draw(tokenizer, *choice, 3);
  EXPECT_TRUE(chosen == "yes" || chosen == "no, never") << chosen;
}

TEST(Constraint, HoldsForTheBuiltInVocabulary) { expect_constrains(*tiny_tokenizer()); }

// Every kind of tokenizer: byte-level BPE from JSON and from GGUF, SentencePiece, tiktoken ranks.
class ConstraintOf : public testing::TestWithParam<const char*> {};

TEST_P(ConstraintOf, HoldsForEveryKindOfVocabulary) {
  const fs::path path = kData / GetParam();
  if (!fs::exists(path)) GTEST_SKIP() << "not there, skipped: " << path;
  Result<std::unique_ptr<Tokenizer>> tokenizer =
      path.extension() == ".gguf" ? Tokenizer::from_spec(test::read_gguf_spec(path.string()))
                                  : Tokenizer::from_hf_directory(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  expect_constrains(**tokenizer);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, ConstraintOf,
                         testing::Values("gguf-vocab/ggml-vocab-llama-spm.gguf",
                                         "gguf-vocab/ggml-vocab-gpt-2.gguf", "gpt2-hf", "qwen"),
                         [](const auto& test) { return "N" + std::to_string(test.index); });

TEST(Constraint, RefusesWithThePlace) {
  const auto tokenizer = tiny_tokenizer();
  ConstraintCompiler compiler(*tokenizer);
  const auto failure = [&](ConstraintKind kind, const char* text) {
    const auto compiled = compiler.compile({kind, text});
    EXPECT_FALSE(compiled.ok()) << text;
    return compiled.status();
  };
  const Status keyword = failure(ConstraintKind::kJsonSchema,
                                 R"({"properties": {"a": {"items": {"not": {"type": "null"}}}}})");
  EXPECT_EQ(keyword.code(), ErrorCode::kUnsupported);
  EXPECT_TRUE(keyword.message().starts_with("#/properties/a/items/not: ")) << keyword.message();
  EXPECT_NE(failure(ConstraintKind::kJsonSchema, R"js({"pattern": "a(?=b)"})js").code(),
            ErrorCode::kInternal);
  EXPECT_EQ(failure(ConstraintKind::kJsonSchema, "{").code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(failure(ConstraintKind::kGbnf, "root ::= x").code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(failure(ConstraintKind::kRegex, "(a").code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(failure(ConstraintKind::kRegex, std::string(300'000, 'a').c_str()).code(),
            ErrorCode::kResourceExhausted);
}

// Whether an output may begin with this text, token by token.
bool may_begin(const Tokenizer& tokenizer, const Constraint& compiled, const std::string& text) {
  Constraint state = compiled.duplicate().value();
  std::vector<uint32_t> words((tokenizer.vocab_size() + 31) / 32);
  const std::vector<TokenId> ids = tokenizer.encode(text, {.add_special = false}).value();
  for (const TokenId id : ids) {
    EXPECT_TRUE(state.allowed(words).ok());
    if (!allows(words, id)) return false;
    EXPECT_TRUE(state.accept(id).ok());
  }
  return true;
}

TEST(Constraint, NothingIsCalledInAThought) {
  const auto tokenizer = tiny_tokenizer();
  const ToolFormat format = tool_format_of(*tokenizer);
  OutputRules rules{.answer = {},
                    .tools = {{"feed", {{"type", "object"}}, "tools[0]"}},
                    .thinking = ThinkingFormat{{"<think>", {}}, {"</think>", {}}}};
  const auto may = [&](const std::string& text) {
    ConstraintCompiler compiler(*tokenizer);
    const Constraint compiled = compiler.compile(*output_structure(rules, format)).value();
    return may_begin(*tokenizer, compiled, text);
  };
  const std::string call = "<tool_call>\n{\"name\": \"feed\", \"arguments\": {}}\n</tool_call>";
  for (const char* begin : {"<think>", "\n<think>", " \n \n<think>\n"}) {
    EXPECT_TRUE(may(begin + std::string("I <tool_call> nothing.</think>\n\nNo call."))) << begin;
    EXPECT_TRUE(may(begin + std::string("So.</think>\n\n") + call)) << begin;
    EXPECT_TRUE(may(begin + std::string("So.</think>Then:\n") + call)) << begin;
    EXPECT_FALSE(may(begin + std::string("So.</think>\n\n<tool_call> what"))) << begin;
  }
  EXPECT_TRUE(may("I <think> so: " + call));
  EXPECT_TRUE(may("<thin air>"));
  EXPECT_FALSE(may("I <think> so: <tool_call> what"));
  rules.thinking_open = true;
  EXPECT_TRUE(may("I <tool_call> nothing.</think>\n\nNo call."));
  EXPECT_FALSE(may("So.</think>\n\n<tool_call> what"));
}

TEST(Constraint, CopiesGoTheirOwnWays) {
  const auto tokenizer = tiny_tokenizer();
  ConstraintCompiler compiler(*tokenizer);
  const auto compiled = compiler.compile({ConstraintKind::kChoice, R"(["ab", "cd"])"});
  Constraint first = compiled->duplicate().value();
  std::vector<uint32_t> words((tokenizer->vocab_size() + 31) / 32), again = words;
  ASSERT_TRUE(first.allowed(words).ok());
  const std::vector<TokenId> ids = allowed_tokens(words, tokenizer->vocab_size());
  ASSERT_GE(ids.size(), 2u);
  ASSERT_TRUE(first.accept(ids.front()).ok());
  Constraint second = compiled->duplicate().value();
  ASSERT_TRUE(second.allowed(again).ok());
  EXPECT_EQ(words, again);
  Constraint behind = first.duplicate().value();
  if (!first.is_complete()) {
    ASSERT_TRUE(first.allowed(words).ok());
    ASSERT_TRUE(behind.allowed(again).ok());
    EXPECT_EQ(words, again);
  }
}

TEST(Constraint, CompilesOnManyThreads) {
  const auto tokenizer = tiny_tokenizer();
  ConstraintCompiler compiler(*tokenizer);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 5; ++i) {
        const auto compiled = compiler.compile({ConstraintKind::kJsonSchema, kSchema});
        expect_follows_schema(draw(*tokenizer, *compiled, t * 100 + i));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace quipu
