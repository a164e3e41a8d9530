// Tokenizers and templates come from outside: whatever is in them, the answer is an error or a
// working object, never a crash, a hang or a huge allocation.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/random.h"
#include "text/chat_template.h"
#include "text/sentencepiece_model.h"
#include "text/tiktoken_ranks.h"
#include "text/tokenizer.h"

namespace quipu {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path kTiny = fs::path(QUIPU_SOURCE_DIR) / "tests/golden/tokenizers/tiny/tokenizer.json";

std::string read_all(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A directory of its own for each test, removed at the end.
class Directory {
 public:
  explicit Directory(const char* name) : path_(fs::path(testing::TempDir()) / name) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Directory() { fs::remove_all(path_); }
  void write(const char* name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Uses whatever was made, so that a broken object shows.
void exercise(const Tokenizer& tokenizer) {
  for (const char* text : {"", "Hello \xff world", "中华人民共和国 <|im_end|>"}) {
    const auto ids = tokenizer.encode(text);
    if (ids.ok()) static_cast<void>(tokenizer.decode(*ids));
  }
  static_cast<void>(tokenizer.piece(-1));
  static_cast<void>(tokenizer.piece(1 << 30));
  static_cast<void>(tokenizer.to_spec().ok());
}

TEST(MalformedJson, RefusedWithTheFileName) {
  const char* broken[] = {"",
                          "{",
                          "[]",
                          "null",
                          "{}",
                          "{\"version\": \"1.0\"}",
                          R"({"model": {"type": "BPE", "vocab": 5, "merges": []}})",
                          R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})",
                          R"({"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []},
                             "decoder": {"type": "ByteLevel"}})",
                          R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
                             "decoder": {"type": "ByteLevel"}})",
                          R"({"model": {"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}})",
                          R"({"model": {"type": "BPE", "vocab": {}, "merges": []},
                             "decoder": {"type": "ByteLevel"}})",
                          R"({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a",
                             "continuing_subword_prefix": "##", "max_input_chars_per_word": 9},
                             "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}})"};
  for (const char* text : broken) {
    const Directory directory("quipu-malformed");
    directory.write("tokenizer.json", text);
    const auto tokenizer = Tokenizer::from_hf_directory(directory.path());
    ASSERT_FALSE(tokenizer.ok()) << text;
    EXPECT_NE(tokenizer.status().message().find("tokenizer.json"), std::string::npos)
        << tokenizer.status().message();
  }
}

TEST(MalformedJson, DeepNestingIsRefused) {
  const Directory directory("quipu-malformed-deep");
  directory.write("tokenizer.json", std::string(200000, '['));
  EXPECT_FALSE(Tokenizer::from_hf_directory(directory.path()).ok());
}

TEST(MalformedJson, MutatedFilesNeverCrash) {
  const std::string original = read_all(kTiny);
  ASSERT_GT(original.size(), 1000U);
  Random random(5);
  int accepted = 0;
  for (int round = 0; round < 300; ++round) {
    std::string text = original;
    if (round % 3 == 0) text.resize(random.next_below(text.size()));
    for (uint64_t i = random.next_below(6); i > 0 && !text.empty(); --i) {
      text[random.next_below(text.size())] = static_cast<char>(random.next_below(256));
    }
    const Directory directory("quipu-malformed-mutated");
    directory.write("tokenizer.json", text);
    const auto tokenizer = Tokenizer::from_hf_directory(directory.path());
    if (!tokenizer.ok()) continue;
    exercise(**tokenizer);
    ++accepted;
  }
  std::cout << accepted << " of 300 mutated files were still tokenizers\n";
}

TEST(MalformedDirectory, SaysWhatIsMissing) {
  const Directory directory("quipu-malformed-empty");
  const auto tokenizer = Tokenizer::from_hf_directory(directory.path());
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), ErrorCode::kNotFound);
}

TEST(MalformedDirectory, BrokenSmallFilesAreErrors) {
  const Directory directory("quipu-malformed-config");
  directory.write("tokenizer.json", read_all(kTiny));
  directory.write("tokenizer_config.json", "{\"eos_token\": ");
  EXPECT_FALSE(Tokenizer::from_hf_directory(directory.path()).ok());
  // Wrong types are ignored, not trusted.
  directory.write("tokenizer_config.json",
                  R"({"eos_token": [1], "bos_token": {"content": 7}, "chat_template": [{}, 3]})");
  directory.write("generation_config.json", R"({"eos_token_id": ["x", -3, 99999999, 2, null]})");
  const auto tokenizer = Tokenizer::from_hf_directory(directory.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_TRUE((*tokenizer)->is_eos(2));
  EXPECT_FALSE((*tokenizer)->is_eos(99999999));
}

TokenizerSpec byte_level_spec() {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre = "gpt-2";
  spec.tokens = {"a", "b", "ab", "Ġ", "<|end|>"};
  spec.token_types = {1, 1, 1, 1, 3};
  spec.merges = {"a b"};
  return spec;
}

TEST(MalformedSpec, RefusedWithAReason) {
  ASSERT_TRUE(Tokenizer::from_spec(byte_level_spec()).ok());
  const std::pair<const char*, void (*)(TokenizerSpec&)> cases[] = {
      {"empty", [](TokenizerSpec& s) { s.tokens.clear(); s.token_types.clear(); }},
      {"bert", [](TokenizerSpec& s) { s.model = "bert"; }},
      {"no-such-pre", [](TokenizerSpec& s) { s.pre = "no-such-pre"; }},
      {"token_type", [](TokenizerSpec& s) { s.token_types.pop_back(); }},
      {"scores", [](TokenizerSpec& s) { s.scores = {1.0F}; }},
      {"merge 0", [](TokenizerSpec& s) { s.merges = {"ab"}; }},
      {"not UTF-8", [](TokenizerSpec& s) { s.merges = {"a \xff"}; }},
      {"bos", [](TokenizerSpec& s) { s.bos = 5; }},
      {"eom", [](TokenizerSpec& s) { s.eom = -7; }},
      {"needs tokenizer.ggml.scores", [](TokenizerSpec& s) { s.model = "llama"; }},
      {"needs tokenizer.ggml", [](TokenizerSpec& s) { s.model = "t5"; }},
      {"charsmap", [](TokenizerSpec& s) { s.precompiled_charsmap = "\xff\xff\xff\xff"; }},
  };
  for (const auto& [word, change] : cases) {
    TokenizerSpec spec = byte_level_spec();
    change(spec);
    const auto tokenizer = Tokenizer::from_spec(std::move(spec));
    ASSERT_FALSE(tokenizer.ok()) << word;
    EXPECT_NE(tokenizer.status().message().find(word), std::string::npos)
        << tokenizer.status().message();
  }
}

TEST(MalformedSpec, OddVocabulariesWork) {
  TokenizerSpec spec = byte_level_spec();
  // Merges that go nowhere, in circles, twice; tokens that are empty, equal or not UTF-8.
  spec.merges = {"a b", "a b", "ab a", "a ab", "x y", "Ġ Ġ"};
  spec.tokens.insert(spec.tokens.end(), {"", "", "a", "\xff\xfe", "aba"});
  spec.token_types.insert(spec.token_types.end(), {1, 3, 1, 1, 77});
  auto tokenizer = Tokenizer::from_spec(std::move(spec));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  exercise(**tokenizer);
  EXPECT_EQ(*(*tokenizer)->encode("abab ab<|end|>"), (std::vector<TokenId>{2, 2, 3, 2, 4}));
}

TEST(MalformedSpec, RandomSpecsNeverCrash) {
  Random random(9);
  for (int round = 0; round < 400; ++round) {
    TokenizerSpec spec;
    const char* models[] = {"gpt2", "llama", "t5"};
    spec.model = models[random.next_below(3)];
    spec.pre = round % 2 == 0 ? "default" : "llama-bpe";
    const uint64_t count = 1 + random.next_below(60);
    for (uint64_t i = 0; i < count; ++i) {
      std::string token;
      for (uint64_t n = random.next_below(4); n > 0; --n) {
        token.push_back(static_cast<char>(random.next_below(random.next_below(2) ? 128 : 256)));
      }
      spec.tokens.push_back(token);
      spec.token_types.push_back(static_cast<int32_t>(random.next_below(8)));
      spec.scores.push_back(static_cast<float>(random.next_normal()));
    }
    for (uint64_t i = 0; i < count; ++i) {
      spec.merges.push_back(spec.tokens[random.next_below(count)] + " " +
                            spec.tokens[random.next_below(count)]);
    }
    spec.unknown = 0;
    for (uint64_t i = random.next_below(64); i > 0; --i) {
      spec.precompiled_charsmap.push_back(static_cast<char>(random.next_below(256)));
    }
    if (round % 4 != 0) spec.precompiled_charsmap.clear();
    const auto tokenizer = Tokenizer::from_spec(std::move(spec));
    if (tokenizer.ok()) exercise(**tokenizer);
  }
}

TEST(MalformedModelFile, RandomBytesNeverCrash) {
  Random random(11);
  std::string bytes = "\x0a\x07\x0a\x01" "a\x15" "abcd\x12\x02\x18\x02";
  for (int round = 0; round < 2000; ++round) {
    std::string mutated = bytes;
    for (uint64_t i = random.next_below(5); i > 0; --i) {
      mutated[random.next_below(mutated.size())] = static_cast<char>(random.next_below(256));
    }
    mutated.resize(random.next_below(mutated.size() + 1));
    auto spec = read_sentencepiece_model(mutated);
    if (spec.ok()) {
      const auto tokenizer = Tokenizer::from_spec(std::move(spec).value());
      if (tokenizer.ok()) exercise(**tokenizer);
    }
    static_cast<void>(read_tiktoken_ranks(mutated).ok());
  }
  EXPECT_FALSE(read_tiktoken_ranks("YQ== 0\nYg== 5\n").ok());
  EXPECT_TRUE(read_tiktoken_ranks("YQ== 0\nYg== 1\nYWI= 2\n").ok());
}

TEST(MalformedTemplate, MutatedTemplatesNeverCrash) {
  const std::string original =
      "{%- macro one(m) -%}{{ m.role ~ ': ' ~ m['content'] | trim | tojson(indent=2) }}{%- endmacro -%}"
      "{% for m in messages if m.content %}{% if loop.first and tools %}{{ tools | length }}"
      "{% elif m.role == 'user' %}{{ one(m)[:-1] }}{% else %}{% break %}{% endif %}{% endfor %}"
      "{% set ns = namespace(x=1) %}{% set ns.x = ns.x + 2 ** 3 // 1 %}{{ ns.x }}"
      "{{ messages | map(attribute='role') | join(', ') }}{% generation %}x{% endgeneration %}";
  const auto messages = nlohmann::ordered_json::parse(R"([{"role": "user", "content": "hi"}])");
  ASSERT_TRUE(ChatTemplate::compile(original, {}).ok());
  Random random(13);
  ChatRenderOptions options;
  options.fuel = 20000;
  int rendered = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string source = original;
    for (uint64_t i = 1 + random.next_below(4); i > 0; --i) {
      const size_t from = random.next_below(source.size());
      const size_t to = random.next_below(source.size());
      switch (random.next_below(3)) {
        case 0: source[from] = static_cast<char>(random.next_below(128)); break;
        case 1: source.insert(to, source.substr(from, random.next_below(30))); break;
        default: source.erase(from, random.next_below(20)); break;
      }
      if (source.empty()) source.push_back('x');
    }
    const auto chat = ChatTemplate::compile(source, {});
    if (chat.ok()) rendered += chat->render(messages, nullptr, options).ok();
  }
  std::cout << rendered << " of 3000 mutated templates still rendered\n";
}

TEST(MalformedTemplate, DeepNestingIsRefused) {
  for (const char* part : {"{% if x %}", "{{ (((((((((((((((((((((((((((((((((", "{% for a in b %}",
                           "{{ [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "{% if not not not not not x %}"}) {
    std::string source;
    while (source.size() < 300000) source += part;
    EXPECT_FALSE(ChatTemplate::compile(source, {}).ok()) << part;
  }
  EXPECT_FALSE(ChatTemplate::compile(std::string(2 << 20, 'x'), {}).ok());
}

}  // namespace
}  // namespace quipu
