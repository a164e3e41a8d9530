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
#include "text/tokenizer.h"

namespace quipu {

// A mark in an output: a text, which may be a control token of its own. Empty text: no mark.
struct OutputMark {
  std::string text;
  std::optional<TokenId> token;

  bool is_set() const { return !text.empty(); }
};

enum class ToolFamily {
  kPlain,    // the template takes no tools: they are told in a system message, called as in kHermes
  kHermes,   // <tool_call> JSON </tool_call>: Hermes, Qwen 2.5 and 3, Granite 4
  kLlama3,   // {"name": ..., "parameters": ...}
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": ...}, ...]
  kMistralArgs,  // [TOOL_CALLS]name[ARGS]{...}
  kUnknown,      // the template takes tools and teaches a way to call them that is not known here
};

// begin [open] before_name NAME after_name ARGUMENTS after_arguments [between ...] [close] end
struct ToolFormat {
  ToolFamily family = ToolFamily::kPlain;
  OutputMark begin, end;
  bool marks_each = true;  // begin and end stand around each call, not around all of them
  std::string open, close, between;
  std::string before_name;
  OutputMark after_name;
  std::string after_arguments;
  bool can_call_many = true;  // in one output
  bool short_ids =
      false;  // ids of calls have nine letters and digits, or the template refuses them
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
  nlohmann::ordered_json schema;  // of the arguments; null: none
  std::string place;              // of the schema in the request, for messages
};

struct OutputRules {
  // What the answer must be, when no tool is called.
  std::optional<ConstraintSource> answer;
  std::vector<ToolChoice> tools;  // that may be called; empty: none
  bool must_call = false;         // a call, and no text before it
  bool many_calls = false;
  std::optional<ThinkingFormat> thinking;
  bool thinking_open = false;  // the prompt ends inside of it
};

// The constraint on an output under these rules; nothing when any text follows them.
// REQUIRES: no answer together with tools.
std::optional<ConstraintSource> output_structure(const OutputRules& rules,
                                                 const ToolFormat& format);

}  // namespace quipu
