#include "text/output_parser.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "text/test_util.h"

namespace quipu {
namespace {

using Kind = OutputPiece::Kind;

std::string show(const std::vector<OutputPiece>& pieces) {
  const std::map<Kind, const char*> names = {{Kind::kThinking, "think"},
                                             {Kind::kContent, "say"},
                                             {Kind::kCall, "call"},
                                             {Kind::kArguments, "with"}};
  std::string text;
  for (const OutputPiece& piece : pieces)
    text += fmt::format("[{} {}]", names.at(piece.kind), piece.text);
  return text;
}

// Parses the text whole, byte by byte, and cut at random: always the same.
std::string parse(const OutputLayout& layout, const std::string& text) {
  const std::string shown = show(parse_cut(layout, text, 0, 0));
  for (uint64_t round = 1; round < 12; ++round)
    EXPECT_EQ(show(parse_cut(layout, text, round == 1 ? 1 : 9, round)), shown) << "round " << round;
  return shown;
}

std::unique_ptr<Tokenizer> tokenizer_with(const std::string& chat_template) {
  TokenizerSpec spec;
  spec.model = "characters";
  spec.tokens = {"<s>", "</s>", "[TOOL_CALLS]", "[ARGS]", "a", "<tool_call>"};
  spec.token_types = {3, 3, 3, 3, 1, 4};
  spec.bos = 0;
  spec.eos = 1;
  spec.chat_template = chat_template;
  return Tokenizer::from_spec(std::move(spec)).value();
}

constexpr const char* kHermes = "{% if tools %}<tool_call> {\"name\": n, \"arguments\": a}";

OutputLayout hermes(bool thinking_open = false) {
  const auto tokenizer = tokenizer_with(kHermes);
  return {ThinkingFormat{{"<think>", {}}, {"</think>", {}}}, thinking_open,
          tool_format_of(*tokenizer)};
}

TEST(OutputParser, TellsThinkingTextAndCallsApart) {
  const std::string call =
      "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": \"}\\\"{\"}}\n</tool_call>";
  EXPECT_EQ(parse(hermes(), "hello < you"), "[say hello < you]");
  EXPECT_EQ(parse(hermes(), "<think>\nhm <b>\n</think>\n\nhello \n"),
            "[think hm <b>][say hello \n]");
  EXPECT_EQ(parse(hermes(), "so:\n" + call), "[say so:][call add][with {\"a\": \"}\\\"{\"}]");
  EXPECT_EQ(parse(hermes(), call + "\n" + call),
            "[call add][with {\"a\": \"}\\\"{\"}][call add][with {\"a\": \"}\\\"{\"}]");
  EXPECT_EQ(parse(hermes(true), "hm</think>" + call),
            "[think hm][call add][with {\"a\": \"}\\\"{\"}]");
  EXPECT_EQ(parse(hermes(true), "never ends"), "[think never ends]");
  EXPECT_EQ(parse(hermes(), "<think"), "[say <think]");
  EXPECT_EQ(parse(hermes(), call.substr(0, 50)), "[call add][with {\"a\": \"}\\]");
  EXPECT_EQ(parse({}, "<think>a</think>"), "[say <think>a</think>]");
}

TEST(OutputParser, ReadsMistralsAndLlamasCalls) {
  const auto mistral = tokenizer_with("{% if tools %}[TOOL_CALLS] {{ tools }}");
  OutputLayout layout{{}, false, tool_format_of(*mistral)};
  EXPECT_EQ(parse(layout,
                  "\xff[TOOL_CALLS][{\"name\": \"a\", \"arguments\": {}}, {\"name\": \"b\", "
                  "\"arguments\": {\"x\": [1]}}]"),
            "[call a][with {}][call b][with {\"x\": [1]}]");
  EXPECT_EQ(layout.calls->begin.token, TokenId{2});
  const auto newer = tokenizer_with("{% if tools %}[TOOL_CALLS] {{ tools }}[ARGS]");
  layout.calls = tool_format_of(*newer);
  EXPECT_EQ(parse(layout, "ok[TOOL_CALLS]\xff[TOOL_CALLS]a\xff[ARGS]{\"x\": 1}\xff[TOOL_CALLS]b\xff[ARGS]{}"),
            "[say ok[TOOL_CALLS]][call a][with {\"x\": 1}][call b][with {}]");
  EXPECT_EQ(parse(layout, "\xff[TOOL"), "[say [TOOL]");
  const auto llama = tokenizer_with("<|start_header_id|> tools {\"name\": n, \"parameters\": p}");
  layout.calls = tool_format_of(*llama);
  EXPECT_EQ(parse(layout, "{\"name\": \"a\", \"parameters\": {\"x\": 1}}"),
            "[call a][with {\"x\": 1}]");
}

// An answer that has a form, or calls: what the answer's text holds begins no call.
TEST(OutputParser, TellsCallsFromAnAnswerByTheirBeginning) {
  OutputLayout layout = hermes();
  layout.calls_alone = true;
  const std::string call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>";
  EXPECT_EQ(parse(layout, call + "\n" + call), "[call add][with {}][call add][with {}]");
  EXPECT_EQ(parse(layout, "{\"a\": \"<tool_call>\\n\"}"), "[say {\"a\": \"<tool_call>\\n\"}]");
  EXPECT_EQ(parse(layout, "<think>a</think>\n\n" + call), "[think a][call add][with {}]");
  EXPECT_EQ(parse(layout, "<think>a</think>\n\n{}"), "[think a][say {}]");
  EXPECT_EQ(parse(layout, "<tool_"), "[say <tool_]");
  EXPECT_EQ(parse(layout, ""), "");
}

// Templates as models come with them.
TEST(ToolFormat, IsFoundFromPublishedTemplates) {
  const std::filesystem::path folder =
      std::filesystem::path(QUIPU_SHARED_DIR) / "data/templates/models";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "not there, skipped: " << folder;
  const auto family = [&](const std::string& name) {
    std::ifstream file(folder / (name + ".jinja"));
    std::stringstream text;
    text << file.rdbuf();
    EXPECT_FALSE(text.str().empty()) << name;
    return tool_format_of(*tokenizer_with(text.str())).family;
  };
  for (const char* name :
       {"Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen-QwQ-32B", "ibm-granite-granite-4.0",
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"})
    EXPECT_EQ(family(name), ToolFamily::kHermes) << name;
  for (const char* name : {"meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct",
                           "meta-llama-Llama-3.3-70B-Instruct"})
    EXPECT_EQ(family(name), ToolFamily::kLlama3) << name;
  EXPECT_EQ(family("mistralai-Mistral-Nemo-Instruct-2407"), ToolFamily::kMistral);
  EXPECT_EQ(family("Mistral-Small-3.2-24B-Instruct-2506"), ToolFamily::kMistralArgs);
  for (const char* name : {"Qwen3-Coder", "Qwen3.5-4B", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"})
    EXPECT_EQ(family(name), ToolFamily::kQwenTags) << name;
  EXPECT_EQ(family("GLM-4.6"), ToolFamily::kGlm);
  EXPECT_EQ(family("MiniMax-M2"), ToolFamily::kMiniMax);
  EXPECT_EQ(family("ibm-granite-granite-3.3-2B-Instruct"), ToolFamily::kGranite);
  EXPECT_EQ(family("llama-cpp-deepseek-r1"), ToolFamily::kDeepSeekR1);
  for (const char* name :
       {"openai-gpt-oss-120b", "Kimi-K2-Instruct", "MiniMax-M3", "ByteDance-Seed-OSS",
        "meetkai-functionary-medium-v3.1", "GLM-4.7-Flash", "deepseek-ai-DeepSeek-V3.2"})
    EXPECT_EQ(family(name), ToolFamily::kUnknown) << name;
  for (const char* name : {"google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct"})
    EXPECT_EQ(family(name), ToolFamily::kPlain) << name;
}

}  // namespace
}  // namespace quipu
