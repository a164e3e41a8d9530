// ChatTemplate: a conversation to the prompt text that a model was trained on.
//
// Runs the Jinja template that comes with a model, with the same results as transformers'
// apply_chat_template: trimmed blocks, Python string methods, loop controls, tojson as json.dumps
// writes it, raise_exception, strftime_now, and {% generation %} as a mark that prints nothing.
// Templates are untrusted: source size, recursion and the number of steps are limited, and a template
// reaches nothing but its arguments.
// THREADS: immutable after compile(), thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "text/tokenizer.h"

struct QuipuTemplate;  // text/shim/quipu_text.h

namespace quipu {

using ChatTemplateTokens = SpecialTokenTexts;

// The time that strftime_now() shows.
struct TemplateClock {
  int64_t now_unix_s = 0;
  int32_t utc_offset_s = 0;  // local time is ahead of UTC by this
};

struct ChatRenderOptions {
  bool add_generation_prompt = true;
  // More variables (an object), such as {"enable_thinking": false}; they win over the others.
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();
  std::optional<TemplateClock> clock;  // absent: now, in the local zone
  uint64_t fuel = 10'000'000;          // template steps; a long real conversation takes thousands
};

class ChatTemplate {
 public:
  // ERRORS: kCorruptData with the line of a syntax error.
  static Result<ChatTemplate> compile(std::string_view source, ChatTemplateTokens tokens);

  ChatTemplate(ChatTemplate&&) noexcept = default;
  ChatTemplate& operator=(ChatTemplate&&) noexcept = default;

  // The prompt. `messages` is an array of messages as in the OpenAI API; `tools` an array, or null.
  // ERRORS: kInvalidArgument when the template refuses the conversation or fails on it (its own
  // message is included), kResourceExhausted when it runs out of fuel.
  Result<std::string> render(const nlohmann::ordered_json& messages,
                             const nlohmann::ordered_json& tools,
                             const ChatRenderOptions& options = {}) const;

 private:
  struct Free {
    void operator()(QuipuTemplate* handle) const;
  };

  ChatTemplate(QuipuTemplate* handle, ChatTemplateTokens tokens)
      : handle_(handle), tokens_(std::move(tokens)) {}

  std::unique_ptr<QuipuTemplate, Free> handle_;
  ChatTemplateTokens tokens_;
};

}  // namespace quipu
