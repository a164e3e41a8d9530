#include "text/tool_format.h"

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

ToolFamily family_of(std::string_view chat_template) {
  if (!has(chat_template, "tools")) return ToolFamily::kPlain;
  if (has(chat_template, "[TOOL_CALLS]"))
    return has(chat_template, "[ARGS]") ? ToolFamily::kMistralArgs : ToolFamily::kMistral;
  if (has(chat_template, "<tool_call>") && has(chat_template, "\"arguments\"") &&
      !has(chat_template, "<function=") && !has(chat_template, "<arg_key>"))
    return ToolFamily::kHermes;
  if (has(chat_template, "<|start_header_id|>") && has(chat_template, "\"parameters\": ") &&
      has(chat_template, "\"name\": ") && !has(chat_template, "<function="))
    return ToolFamily::kLlama3;
  return ToolFamily::kUnknown;
}

Json mark_to_json(const OutputMark& mark) {
  if (mark.token.has_value()) return {{"token", *mark.token}};
  return mark.text;
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

ToolFormat tool_format_of(const Tokenizer& tokenizer) {
  ToolFormat format;
  format.family = family_of(tokenizer.chat_template());
  switch (format.family) {
    case ToolFamily::kPlain:
    case ToolFamily::kHermes:
    case ToolFamily::kUnknown:
      format.begin = mark_of(tokenizer, "<tool_call>");
      format.end = mark_of(tokenizer, "</tool_call>");
      format.between = "\n";
      format.before_name = "\n{\"name\": \"";
      format.after_name.text = "\", \"arguments\": ";
      format.after_arguments = "}\n";
      break;
    case ToolFamily::kLlama3:
      format.begin.text = "{\"name\": \"";
      format.after_name.text = "\", \"parameters\": ";
      format.after_arguments = "}";
      format.can_call_many = false;
      break;
    case ToolFamily::kMistral:
      format.begin = mark_of(tokenizer, "[TOOL_CALLS]");
      format.marks_each = false;
      format.open = "[";
      format.close = "]";
      format.between = ", ";
      format.before_name = "{\"name\": \"";
      format.after_name.text = "\", \"arguments\": ";
      format.after_arguments = "}";
      format.short_ids = true;
      break;
    case ToolFamily::kMistralArgs:
      format.begin = mark_of(tokenizer, "[TOOL_CALLS]");
      format.after_name = mark_of(tokenizer, "[ARGS]");
      format.short_ids = true;
      break;
  }
  return format;
}

std::optional<ThinkingFormat> thinking_format_of(const Tokenizer& tokenizer) {
  const std::string_view chat_template = tokenizer.chat_template();
  if (!has(chat_template, "</think>")) return std::nullopt;
  return ThinkingFormat{mark_of(tokenizer, "<think>"), mark_of(tokenizer, "</think>")};
}

std::optional<ConstraintSource> output_structure(const OutputRules& rules,
                                                 const ToolFormat& format) {
  QUIPU_CHECK(!rules.answer.has_value() || rules.tools.empty(), "an answer's form with tools");
  if (!rules.answer.has_value() && rules.tools.empty()) return std::nullopt;
  if (!rules.thinking.has_value() && rules.answer.has_value()) return rules.answer;
  Json structure = Json::object();
  if (rules.thinking.has_value()) {
    structure["thinking"]["begin"] =
        rules.thinking_open ? Json(nullptr) : mark_to_json(rules.thinking->begin);
    structure["thinking"]["end"] = mark_to_json(rules.thinking->end);
  }
  if (rules.answer.has_value()) {
    structure["answer"] = {{"kind", kind_name(rules.answer->kind)}, {"source", rules.answer->text}};
  } else {
    Json tools = Json::array();
    for (const ToolChoice& tool : rules.tools)
      tools.push_back({{"name", tool.name}, {"schema", tool.schema}, {"place", tool.place}});
    structure["calls"] = {{"begin", mark_to_json(format.begin)},
                          {"end", mark_to_json(format.end)},
                          {"marks_each", format.marks_each},
                          {"open", format.open},
                          {"close", format.close},
                          {"between", format.between},
                          {"before_name", format.before_name},
                          {"after_name", mark_to_json(format.after_name)},
                          {"after_arguments", format.after_arguments},
                          {"many", rules.many_calls && format.can_call_many},
                          {"text", !rules.must_call},
                          {"tools", std::move(tools)}};
  }
  return ConstraintSource{ConstraintKind::kStructure, structure.dump()};
}

}  // namespace quipu
