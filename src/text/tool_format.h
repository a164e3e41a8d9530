// ToolFormat: how a family of models writes that it wants tools to be called, and how it thinks.
// Found out from the chat template that comes with the model.
//
// What a request allows of it becomes one constraint (output_structure()), and what comes out is
// told apart by an OutputParser, which can rely on the constraint: a call that began is one that
// follows its tool's schema. THREADS: plain values.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/constraint.h"
#include "text/tagged_arguments.h"
#include "text/tokenizer.h"

namespace quipu {

// A mark in an output: a text, which may be a control token of its own. Empty text: no mark.
struct OutputMark {
  std::string text;
  std::optional<TokenId> token;

  bool is_set() const { return !text.empty(); }
};
using OutputMarks = std::vector<OutputMark>;

// As an OutputParser reads marks: a control token's begins with a byte that no text has, so that
// what is spelled like one is none.
inline constexpr char kControlByte = '\xff';
std::string text_of(const OutputMark& mark);
std::string text_of(const OutputMarks& marks);

enum class ToolFamily {
  kPlain,    // the template takes no tools: they are told in a system message, called as in kHermes
  kHermes,   // <tool_call> JSON </tool_call>: Hermes, Qwen 2.5 and 3, Granite 4
  kLlama3,   // {"name": ..., "parameters": ...}
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": ...}, ...]
  kMistralArgs,  // [TOOL_CALLS]name[ARGS]{...}
  kGranite,      // <|tool_call|>[{"name": ..., "arguments": ...}, ...]: Granite 3
  kDeepSeek,    // <|tool_calls_begin|><|tool_call_begin|>name<|tool_sep|>{...}<|tool_call_end|>...:
                // V3.1, with other bars and blanks
  kDeepSeekR1,  // the same with "function" before the name, and the arguments in a ```json block
  kQwenTags,    // <tool_call><function=name><parameter=key>value</parameter>...: Qwen 3 Coder, 3.5
  kGlm,         // <tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value>...: GLM 4.5
  kMiniMax,     // <minimax:tool_call><invoke name="..."><parameter name="key">value</parameter>...
  kUnknown,     // the template takes tools and teaches a way to call them that is not known here
};

// Around arguments that are written one by one (tagged_arguments.h). What follows a value ends with
// a line's end.
struct ArgumentTags {
  std::string before_key, after_key, after_value;
};

// begin [open] before_name NAME after_name ARGUMENTS after_arguments [between ...] [close] end
struct ToolFormat {
  ToolFamily family = ToolFamily::kPlain;
  OutputMark begin, end;
  bool marks_each = true;  // begin and end stand around each call, not around all of them
  std::string open, close, between;
  OutputMarks before_name, after_name, after_arguments;
  std::optional<ArgumentTags> tags;  // absent: the arguments are one JSON object
  bool can_call_many = true;         // in one output
  bool short_ids =
      false;  // ids of calls have nine letters and digits, or the template refuses them

  // Those of its marks that are control tokens.
  OutputMarks control_marks() const;
};

ToolFormat tool_format_of(const Tokenizer& tokenizer);

// The marks around what a model thinks before it answers; nothing for models that do not.
struct ThinkingFormat {
  OutputMark begin, end;
};
std::optional<ThinkingFormat> thinking_format_of(const Tokenizer& tokenizer);

// One of the tools that an output may call.
struct ToolChoice {
  std::string name;
  nlohmann::ordered_json schema;          // of the arguments; null: none
  std::string place;                      // of the schema in the request, for messages
  std::vector<TaggedArgument> arguments;  // of a format with tags: tagged_arguments(schema, place)
};

// Whether an answer of this form and calls can be told apart from their beginnings.
bool can_tell_apart(const ConstraintSource& answer, const ToolFormat& format);

struct OutputRules {
  // What the answer must be, when no tool is called; then calls have no text before them.
  std::optional<ConstraintSource> answer;
  std::vector<ToolChoice> tools;  // that may be called; empty: none
  bool must_call = false;         // a call, and no text before it
  bool many_calls = false;
  std::optional<ThinkingFormat> thinking;
  bool thinking_open = false;  // the prompt ends inside of it
};

// The constraint on an output under these rules; nothing when any text follows them.
// REQUIRES: with an answer and tools that may be called: can_tell_apart().
std::optional<ConstraintSource> output_structure(const OutputRules& rules,
                                                 const ToolFormat& format);

}  // namespace quipu
