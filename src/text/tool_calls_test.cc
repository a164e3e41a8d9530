// Calls in the form of every family: outputs drawn from the constraint that a request makes, and
// read by the parser, have arguments that follow the tools' schemas, however the text is cut.
#include <gtest/gtest.h>

#include "base/random.h"
#include "text/output_parser.h"
#include "text/test_util.h"

namespace quipu {
namespace {

using Json = nlohmann::ordered_json;
using Kind = OutputPiece::Kind;

struct Family {
  ToolFamily family;
  const char* chat_template;
  const char* example;  // two calls as the templates of such models write them
};

constexpr const char* kMarks[] = {"<tool_call>",
                                  "</tool_call>",
                                  "<｜tool▁calls▁begin｜>",
                                  "<｜tool▁calls▁end｜>",
                                  "<｜tool▁call▁begin｜>",
                                  "<｜tool▁call▁end｜>",
                                  "<｜tool▁sep｜>",
                                  "<|tool_call|>",
                                  "[TOOL_CALLS]",
                                  "[ARGS]"};

const Family kFamilies[] = {
    {ToolFamily::kHermes, "tools <tool_call> {\"name\": n, \"arguments\": a}",
     "<tool_call>\n{\"name\": \"go\", \"arguments\": {\"to\": \"Lima \\\"\", \"days\": "
     "3}}\n</tool_call>\n"
     "<tool_call>\n{\"name\": \"wait\", \"arguments\": {}}\n</tool_call>"},
    {ToolFamily::kMistral, "tools [TOOL_CALLS]",
     "[TOOL_CALLS][{\"name\": \"go\", \"arguments\": {\"to\": \"Lima \\\"\", \"days\": 3}}, "
     "{\"name\": \"wait\", \"arguments\": {}}]"},
    {ToolFamily::kMistralArgs, "tools [TOOL_CALLS][ARGS]",
     "[TOOL_CALLS]go[ARGS]{\"to\": \"Lima \\\"\", \"days\": 3}[TOOL_CALLS]wait[ARGS]{}"},
    {ToolFamily::kGranite, "tools <|tool_call|> followed by a JSON list",
     "<|tool_call|>[{\"name\": \"go\", \"arguments\": {\"to\": \"Lima \\\"\", \"days\": 3}}, "
     "{\"name\": \"wait\", \"arguments\": {}}]"},
    {ToolFamily::kDeepSeek, "tools <｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>go<｜tool▁sep｜>{\"to\": \"Lima \\\"\", \"days\": "
     "3}"
     "<｜tool▁call▁end｜><｜tool▁call▁begin｜>wait<｜tool▁sep｜>{}<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>"},
    {ToolFamily::kDeepSeekR1,
     "tools <｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>```json",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>go\n```json\n"
     "{\"to\": \"Lima \\\"\", \"days\": 3}\n```<｜tool▁call▁end｜>\n"
     "<｜tool▁call▁begin｜>function<｜tool▁sep｜>wait\n```json\n{}\n```<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>"},
    {ToolFamily::kQwenTags, "tools <tool_call>\\n<function= <parameter= \\n</parameter>\\n",
     "<tool_call>\n<function=go>\n<parameter=to>\nLima \"\n</parameter>\n<parameter=days>\n3\n"
     "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=wait>\n</function>\n</"
     "tool_call>"},
    {ToolFamily::kGlm, "tools <tool_call> </arg_key>\n<arg_value> </arg_value>\n<arg_key>",
     "<tool_call>go\n<arg_key>to</arg_key>\n<arg_value>Lima "
     "\"</arg_value>\n<arg_key>days</arg_key>\n"
     "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>wait\n</tool_call>"},
    {ToolFamily::kMiniMax, "tools <minimax:tool_call> <invoke name=\" <parameter name=\"",
     "<minimax:tool_call>\n<invoke name=\"go\">\n<parameter name=\"to\">Lima \"</parameter>\n"
     "<parameter name=\"days\">3</parameter>\n</invoke>\n<invoke name=\"wait\">\n</invoke>\n"
     "</minimax:tool_call>"},
};

// Characters, and the marks as control tokens or not at all.
std::unique_ptr<Tokenizer> tokenizer_for(const Family& family, bool has_marks) {
  TokenizerSpec spec;
  spec.model = "characters";
  spec.tokens = {"<s>", "</s>", "\n", "｜", "▁", "é"};
  spec.token_types = {3, 3, 1, 1, 1, 1};
  for (char c = ' '; c <= '~'; ++c) spec.tokens.emplace_back(1, c);
  spec.token_types.resize(spec.tokens.size(), 1);
  if (has_marks) spec.tokens.insert(spec.tokens.end(), std::begin(kMarks), std::end(kMarks));
  spec.token_types.resize(spec.tokens.size(), 3);
  spec.bos = 0;
  spec.eos = 1;
  spec.chat_template = family.chat_template;
  return Tokenizer::from_spec(std::move(spec)).value();
}

OutputRules rules_for(const ToolFormat& format, OutputLayout& layout) {
  const Json go = Json::parse(R"({"type": "object", "required": ["to"], "properties": {
    "to": {"type": "string"}, "days": {"type": "integer", "minimum": 0, "maximum": 30},
    "how": {"enum": ["car", "on foot"]}, "stops": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
    "code": {"type": "string", "pattern": "^[A-Z]{2,3}$"}, "fast": {"type": "boolean"},
    "note": {"type": "string", "maxLength": 9}}})");
  OutputRules rules;
  rules.tools = {{"go", go, "tools[0]", {}}, {"wait", nullptr, "tools[1]", {}}};
  rules.many_calls = true;
  layout.calls = format;
  for (ToolChoice& tool : rules.tools) {
    if (!format.tags.has_value()) continue;
    tool.arguments = tagged_arguments(tool.schema, tool.place).value();
    for (const TaggedArgument& argument : tool.arguments)
      if (argument.is_text) layout.text_arguments[tool.name].insert(argument.name);
  }
  return rules;
}

// The text of an output that follows the constraint. Free texts end sooner or later, because a
// mark is begun now and then and gone on with while it is allowed.
std::optional<std::string> draw(const Tokenizer& tokenizer, const Constraint& compiled,
                                const std::vector<std::string>& marks, uint64_t seed) {
  Constraint state = compiled.duplicate().value();
  std::vector<uint32_t> words((tokenizer.vocab_size() + 31) / 32);
  Random random(seed);
  std::string text, plan;
  for (int i = 0; i < 1500 && !state.is_complete(); ++i) {
    EXPECT_TRUE(state.allowed(words).ok());
    std::vector<TokenId> ids;
    for (TokenId id = 0; id < static_cast<TokenId>(tokenizer.vocab_size()); ++id)
      if ((words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0) ids.push_back(id);
    EXPECT_FALSE(ids.empty()) << text;
    if (ids.empty()) return std::nullopt;
    const bool may_end = std::find(ids.begin(), ids.end(), TokenId{1}) != ids.end();
    if (may_end && (ids.size() == 1 || random.next_below(30) == 0)) return text;
    std::erase(ids, TokenId{1});
    if (plan.empty() && random.next_below(6) == 0) plan = marks[random.next_below(marks.size())];
    TokenId next = ids[random.next_below(ids.size())];
    const auto planned = std::find_if(ids.begin(), ids.end(), [&](TokenId id) {
      return !plan.empty() && plan.starts_with(tokenizer.piece(id));
    });
    if (planned != ids.end()) {
      next = *planned;
      plan.erase(0, tokenizer.piece(next).size());
    } else {
      plan.clear();
    }
    text += tokenizer.is_special(next) ? kControlByte + std::string(tokenizer.piece(next))
                                       : tokenizer.piece(next);
    EXPECT_TRUE(state.accept(next).ok()) << text;
  }
  return state.is_complete() ? std::optional(text) : std::nullopt;
}

// Seed 0: whole; 1: byte by byte; others: cut at random.
std::vector<OutputPiece> parse(const OutputLayout& layout, const std::string& text, uint64_t seed) {
  return parse_cut(layout, text, seed < 2 ? seed : 12, seed);
}

// The text as a parser gets it: control tokens are more than what they look like.
std::string as_read(std::string text, const ToolFormat& format) {
  std::string read;
  while (!text.empty()) {
    std::string next = text.substr(0, 1);
    for (const OutputMark& mark : format.control_marks())
      if (text.starts_with(mark.text)) next = mark.text;
    text.erase(0, next.size());
    read += next.size() > 1 ? kControlByte + next : next;
  }
  return read;
}

std::string show(const std::vector<OutputPiece>& pieces) {
  std::string text;
  for (const OutputPiece& piece : pieces)
    text += fmt::format("[{} {}]", static_cast<int>(piece.kind), piece.text);
  return text;
}

// How many calls there are; each has a tool's name and arguments by its schema.
int check_calls(const std::vector<OutputPiece>& pieces, const std::string& text) {
  int calls = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].kind != Kind::kCall) continue;
    ++calls;
    const bool has_arguments = i + 1 < pieces.size() && pieces[i + 1].kind == Kind::kArguments;
    EXPECT_TRUE(has_arguments) << text;
    if (!has_arguments) continue;
    const Json given = Json::parse(pieces[i + 1].text, nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(given.is_object()) << pieces[i + 1].text << "\nof\n" << text;
    if (pieces[i].text == "wait") {
      EXPECT_TRUE(given.empty()) << text;
      continue;
    }
    EXPECT_EQ(pieces[i].text, "go") << text;
    EXPECT_TRUE(given.contains("to")) << text;
    for (const auto& [key, value] : given.items()) {
      const std::string word = value.is_string() ? value.get<std::string>() : "";
      const bool fits = (key == "to" && value.is_string()) ||
                        (key == "days" && value.is_number_integer() && value >= 0 && value <= 30) ||
                        (key == "how" && (word == "car" || word == "on foot")) ||
                        (key == "stops" && value.is_array() && value.size() <= 2) ||
                        (key == "code" && (word.size() == 2 || word.size() == 3)) ||
                        (key == "fast" && value.is_boolean()) ||
                        (key == "note" && value.is_string() && word.size() <= 18);
      EXPECT_TRUE(fits) << key << ": " << value.dump() << "\nof\n" << text;
    }
  }
  return calls;
}

class ToolCalls : public testing::TestWithParam<Family> {};

TEST_P(ToolCalls, AsTemplatesWriteThem) {
  for (const bool has_marks : {false, true}) {
    const auto tokenizer = tokenizer_for(GetParam(), has_marks);
    const ToolFormat format = tool_format_of(*tokenizer);
    ASSERT_EQ(format.family, GetParam().family);
    OutputLayout layout;
    const OutputRules rules = rules_for(format, layout);
    const std::string text = GetParam().example;
    const std::string read = as_read(text, format);
    const std::vector<OutputPiece> pieces = parse(layout, "ok " + read, 0);
    EXPECT_EQ(show(pieces), "[1 ok][2 go][3 {\"to\": \"Lima \\\"\", \"days\": 3}][2 wait][3 {}]");
    for (uint64_t seed = 1; seed < 20; ++seed) {
      EXPECT_EQ(show(parse(layout, "ok " + read, seed)), show(pieces));
      // Cut off anywhere, it is the same beginning, however it came.
      const std::string part = read.substr(0, read.size() * seed / 20);
      EXPECT_EQ(show(parse(layout, part, seed)), show(parse(layout, part, 0)));
    }
    // The constraint allows it.
    ConstraintCompiler compiler(*tokenizer);
    Constraint state = compiler.compile(*output_structure(rules, format)).value();
    std::vector<uint32_t> words((tokenizer->vocab_size() + 31) / 32);
    const std::vector<TokenId> ids =
        tokenizer->encode(text, {.add_special = false, .parse_special = true}).value();
    for (const TokenId id : ids) {
      ASSERT_TRUE(state.allowed(words).ok());
      ASSERT_TRUE((words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0)
          << tokenizer->piece(id) << " in " << text;
      ASSERT_TRUE(state.accept(id).ok());
    }
    EXPECT_TRUE(state.may_end().value());
  }
}

TEST_P(ToolCalls, DrawnFromTheConstraintFollowTheirSchemas) {
  for (const bool has_marks : {false, true}) {
    const auto tokenizer = tokenizer_for(GetParam(), has_marks);
    const ToolFormat format = tool_format_of(*tokenizer);
    ConstraintCompiler compiler(*tokenizer);
    std::vector<std::string> marks = {format.begin.text, "\"}", "\", \"days\": 1}", "\""};
    if (format.tags.has_value())
      marks.insert(marks.end(), {format.tags->after_value, "\n", format.tags->before_key,
                                 text_of(format.after_arguments) + format.end.text});
    int calls = 0, answers = 0;
    for (const bool with_answer : {false, true}) {
      OutputLayout layout;
      OutputRules rules = rules_for(format, layout);
      if (with_answer) {
        rules.answer = {ConstraintKind::kJsonSchema, R"({"enum": ["<tool_call>", "no"]})"};
        ASSERT_EQ(can_tell_apart(*rules.answer, format), has_marks || format.begin.text[0] == '<');
        if (!can_tell_apart(*rules.answer, format)) continue;
        layout.calls_alone = true;
      }
      const auto compiled = compiler.compile(*output_structure(rules, format));
      ASSERT_TRUE(compiled.ok()) << compiled.status().message();
      for (uint64_t seed = 0; seed < 25; ++seed) {
        const std::optional<std::string> text = draw(*tokenizer, *compiled, marks, seed);
        if (!text.has_value()) continue;
        const std::vector<OutputPiece> pieces = parse(layout, *text, 0);
        for (uint64_t cut = 1; cut < 4; ++cut)
          EXPECT_EQ(show(parse(layout, *text, cut)), show(pieces)) << *text;
        const int found = check_calls(pieces, *text);
        calls += found;
        if (!with_answer) continue;
        if (found == 0) {
          ++answers;
          ASSERT_EQ(pieces.size(), 1u) << *text;
          EXPECT_TRUE(pieces[0].text == "\"no\"" || pieces[0].text == "\"<tool_call>\"") << *text;
        } else {
          EXPECT_EQ(pieces[0].kind, Kind::kCall) << *text;
        }
      }
    }
    EXPECT_GT(calls, 3) << "marks " << has_marks;
    const bool may_answer = has_marks || format.begin.text[0] == '<';
    EXPECT_EQ(answers > 0, may_answer) << "marks " << has_marks;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ToolCalls, testing::ValuesIn(kFamilies), [](const auto& test) {
  return "N" + std::to_string(static_cast<int>(test.param.family));
});

}  // namespace
}  // namespace quipu
