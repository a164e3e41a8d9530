#include "text/tool_format.h"

#include <algorithm>

namespace quipu {

using Json = nlohmann::ordered_json;

namespace {

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

OutputMark mark_of(const Tokenizer& tokenizer, std::string text) {
  OutputMark mark{std::move(text), std::nullopt};
  const std::optional<TokenId> token = tokenizer.find(mark.text);
  if (token.has_value() && tokenizer.is_special(*token)) mark.token = token;
  return mark;
}

// Marks of DeepSeek's, whose bars and blanks are characters of their own.
constexpr const char* kCallsBegin = "<｜tool▁calls▁begin｜>";
constexpr const char* kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr const char* kCallBegin = "<｜tool▁call▁begin｜>";
constexpr const char* kCallEnd = "<｜tool▁call▁end｜>";
constexpr const char* kCallSeparator = "<｜tool▁sep｜>";

// `<tool_call>` with arguments in one of its forms; kUnknown: in none that is known here.
ToolFamily family_of_tool_call(std::string_view chat_template) {
  const bool has_function = has(chat_template, "<function="),
             has_key = has(chat_template, "<arg_key>");
  if (!has_function && !has_key)
    return has(chat_template, "\"arguments\"") ? ToolFamily::kHermes : ToolFamily::kUnknown;
  if (has_function && !has_key && has(chat_template, "<tool_call>\\n<function=") &&
      has(chat_template, "<parameter=") && has(chat_template, "\\n</parameter>\\n"))
    return ToolFamily::kQwenTags;
  if (has_key && !has_function && has(chat_template, "</arg_key>\n<arg_value>") &&
      has(chat_template, "</arg_value>\n"))
    return ToolFamily::kGlm;
  return ToolFamily::kUnknown;
}

ToolFamily family_of(std::string_view chat_template) {
  if (!has(chat_template, "tools")) return ToolFamily::kPlain;
  if (has(chat_template, "[TOOL_CALLS]"))
    return has(chat_template, "[ARGS]") ? ToolFamily::kMistralArgs : ToolFamily::kMistral;
  if (has(chat_template, kCallBegin)) {
    if (!has(chat_template, kCallsBegin) || !has(chat_template, kCallSeparator))
      return ToolFamily::kUnknown;
    return has(chat_template, "```json") ? ToolFamily::kDeepSeekR1 : ToolFamily::kDeepSeek;
  }
  if (has(chat_template, "<minimax:tool_call>"))
    return has(chat_template, "<invoke name=\"") && has(chat_template, "<parameter name=\"")
               ? ToolFamily::kMiniMax
               : ToolFamily::kUnknown;
  if (has(chat_template, "<|tool_call|>"))
    return has(chat_template, "<|tool_call|> followed by a JSON list") ? ToolFamily::kGranite
                                                                       : ToolFamily::kUnknown;
  if (has(chat_template, "<tool_call>")) return family_of_tool_call(chat_template);
  if (has(chat_template, "<|start_header_id|>") && has(chat_template, "\"parameters\": ") &&
      has(chat_template, "\"name\": ") && !has(chat_template, "<function="))
    return ToolFamily::kLlama3;
  return ToolFamily::kUnknown;
}

Json mark_to_json(const OutputMark& mark) {
  if (mark.token.has_value()) return {{"token", *mark.token}};
  return mark.text;
}

// One text where no control token is among them.
Json marks_to_json(const OutputMarks& marks) {
  Json parts = Json::array();
  for (const OutputMark& mark : marks) {
    if (!mark.is_set()) continue;
    if (!mark.token.has_value() && !parts.empty() && parts.back().is_string()) {
      parts.back() = parts.back().get<std::string>() + mark.text;
    } else {
      parts.push_back(mark_to_json(mark));
    }
  }
  if (parts.empty()) return "";
  return parts.size() == 1 ? parts.front() : parts;
}

Json arguments_to_json(const std::vector<TaggedArgument>& arguments) {
  Json list = Json::array();
  for (const TaggedArgument& argument : arguments) {
    Json one = {{"name", argument.name},       {"required", argument.is_required},
                {"text", argument.is_text},    {"choices", argument.choices},
                {"pattern", argument.pattern}, {"schema", argument.schema},
                {"place", argument.place}};
    if (argument.characters_max.has_value()) one["characters_max"] = *argument.characters_max;
    list.push_back(std::move(one));
  }
  return list;
}

// A list of {"name": ..., "arguments": ...} behind a mark.
void set_list(OutputMark begin, ToolFormat& format) {
  format.begin = std::move(begin);
  format.marks_each = false;
  format.open = "[";
  format.close = "]";
  format.between = ", ";
  format.before_name = {{"{\"name\": \"", {}}};
  format.after_name = {{"\", \"arguments\": ", {}}};
  format.after_arguments = {{"}", {}}};
}

const char* kind_name(ConstraintKind kind) {
  switch (kind) {
    case ConstraintKind::kJsonSchema: return "json_schema";
    case ConstraintKind::kRegex: return "regex";
    case ConstraintKind::kLark: return "lark";
    case ConstraintKind::kGbnf: return "gbnf";
    case ConstraintKind::kChoice: return "choice";
    case ConstraintKind::kStructure: break;
  }
  QUIPU_CHECK(false, "a structure is no answer inside of one");
  return "";
}

}  // namespace

std::string text_of(const OutputMark& mark) {
  return mark.token.has_value() ? kControlByte + mark.text : mark.text;
}

std::string text_of(const OutputMarks& marks) {
  std::string text;
  for (const OutputMark& mark : marks) text += text_of(mark);
  return text;
}

OutputMarks ToolFormat::control_marks() const {
  OutputMarks all = {begin, end};
  for (const OutputMarks* marks : {&before_name, &after_name, &after_arguments})
    all.insert(all.end(), marks->begin(), marks->end());
  std::erase_if(all, [](const OutputMark& mark) { return !mark.token.has_value(); });
  return all;
}

ToolFormat tool_format_of(const Tokenizer& tokenizer) {
  const auto mark = [&](const char* text) { return mark_of(tokenizer, text); };
  ToolFormat format;
  format.family = family_of(tokenizer.chat_template());
  format.begin = mark("<tool_call>");
  format.end = mark("</tool_call>");
  format.between = "\n";
  switch (format.family) {
    case ToolFamily::kPlain:
    case ToolFamily::kHermes:
    case ToolFamily::kUnknown:
      format.before_name = {{"\n{\"name\": \"", {}}};
      format.after_name = {{"\", \"arguments\": ", {}}};
      format.after_arguments = {{"}\n", {}}};
      break;
    case ToolFamily::kLlama3:
      format = {.family = format.family, .begin = {"{\"name\": \"", {}}, .can_call_many = false};
      format.after_name = {{"\", \"parameters\": ", {}}};
      format.after_arguments = {{"}", {}}};
      break;
    case ToolFamily::kMistral:
      format = {.family = format.family, .short_ids = true};
      set_list(mark("[TOOL_CALLS]"), format);
      break;
    case ToolFamily::kMistralArgs:
      format = {.family = format.family, .begin = mark("[TOOL_CALLS]"), .short_ids = true};
      format.after_name = {mark("[ARGS]")};
      break;
    case ToolFamily::kGranite:
      format = {.family = format.family};
      set_list(mark("<|tool_call|>"), format);
      break;
    case ToolFamily::kDeepSeek:
    case ToolFamily::kDeepSeekR1: {
      const bool is_r1 = format.family == ToolFamily::kDeepSeekR1;
      format.begin = mark(kCallsBegin);
      format.end = mark(kCallsEnd);
      format.marks_each = false;
      format.between = is_r1 ? "\n" : "";
      format.before_name = {mark(kCallBegin)};
      format.after_name = {is_r1 ? OutputMark{"\n```json\n", {}} : mark(kCallSeparator)};
      if (is_r1)
        format.before_name.insert(format.before_name.end(),
                                  {{"function", {}}, mark(kCallSeparator)});
      format.after_arguments = {{is_r1 ? "\n```" : "", {}}, mark(kCallEnd)};
      break;
    }
    case ToolFamily::kQwenTags:
      format.before_name = {{"\n<function=", {}}};
      format.after_name = {{">\n", {}}};
      format.after_arguments = {{"</function>\n", {}}};
      format.tags = {"<parameter=", ">\n", "\n</parameter>\n"};
      break;
    case ToolFamily::kGlm:
      format.after_name = {{"\n", {}}};
      format.tags = {"<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"};
      break;
    case ToolFamily::kMiniMax:
      format.begin = mark("<minimax:tool_call>");
      format.end = mark("</minimax:tool_call>");
      format.marks_each = false;
      format.open = "\n";
      format.between = "";
      format.before_name = {{"<invoke name=\"", {}}};
      format.after_name = {{"\">\n", {}}};
      format.after_arguments = {{"</invoke>\n", {}}};
      format.tags = {"<parameter name=\"", "\">", "</parameter>\n"};
      break;
  }
  return format;
}

bool can_tell_apart(const ConstraintSource& answer, const ToolFormat& format) {
  if (format.begin.token.has_value()) return true;  // which no text has
  // Any JSON value begins with one of these.
  return answer.kind == ConstraintKind::kJsonSchema && format.begin.is_set() &&
         format.begin.text.find_first_of("{[\"-0123456789tfn \t\r\n") != 0;
}

std::optional<ThinkingFormat> thinking_format_of(const Tokenizer& tokenizer) {
  const std::string_view chat_template = tokenizer.chat_template();
  if (!has(chat_template, "</think>")) return std::nullopt;
  return ThinkingFormat{mark_of(tokenizer, "<think>"), mark_of(tokenizer, "</think>")};
}

std::optional<ConstraintSource> output_structure(const OutputRules& rules,
                                                 const ToolFormat& format) {
  const bool may_answer = rules.answer.has_value() && (rules.tools.empty() || !rules.must_call);
  QUIPU_CHECK(!may_answer || rules.tools.empty() || can_tell_apart(*rules.answer, format),
              "an answer's form and calls that begin alike");
  if (!may_answer && rules.tools.empty()) return std::nullopt;
  if (!rules.thinking.has_value() && rules.tools.empty()) return rules.answer;
  Json structure = Json::object();
  if (rules.thinking.has_value()) {
    structure["thinking"]["begin"] =
        rules.thinking_open ? Json(nullptr) : mark_to_json(rules.thinking->begin);
    structure["thinking"]["end"] = mark_to_json(rules.thinking->end);
  }
  if (may_answer) {
    structure["answer"] = {{"kind", kind_name(rules.answer->kind)}, {"source", rules.answer->text}};
  }
  if (!rules.tools.empty()) {
    Json tools = Json::array();
    for (const ToolChoice& tool : rules.tools) {
      tools.push_back({{"name", tool.name}, {"schema", tool.schema}, {"place", tool.place}});
      if (format.tags.has_value()) tools.back()["arguments"] = arguments_to_json(tool.arguments);
    }
    structure["calls"] = {{"begin", mark_to_json(format.begin)},
                          {"end", mark_to_json(format.end)},
                          {"marks_each", format.marks_each},
                          {"open", format.open},
                          {"close", format.close},
                          {"between", format.between},
                          {"before_name", marks_to_json(format.before_name)},
                          {"after_name", marks_to_json(format.after_name)},
                          {"after_arguments", marks_to_json(format.after_arguments)},
                          {"many", rules.many_calls && format.can_call_many},
                          {"text", !rules.must_call && !may_answer},
                          {"tools", std::move(tools)}};
    if (format.tags.has_value()) {
      structure["calls"]["tags"] = {{"before_key", format.tags->before_key},
                                    {"after_key", format.tags->after_key},
                                    {"after_value", format.tags->after_value}};
    }
  }
  return ConstraintSource{ConstraintKind::kStructure, structure.dump()};
}

}  // namespace quipu
