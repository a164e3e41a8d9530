// Conversations as text: the model's chat template over a list of messages.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "app/assemble.h"
#include "text/chat_template.h"

namespace quipu {

// The chat template that the model's tokenizer came with; nothing where there is none.
// ERRORS: those of ChatTemplate::compile().
Result<std::optional<ChatTemplate>> chat_template_of(const LoadedModel& model);

// The text the model continues after these messages (with the assistant's opening).
// SHAPE: messages: [{"role", "content", ...}]; tools: an array in OpenAI's form, or null.
// ERRORS: kUnsupported when the model has no chat template; kInvalidArgument when it refuses them.
Result<std::string> render_chat(const LoadedModel& model, const nlohmann::ordered_json& messages,
                                const nlohmann::ordered_json& tools = nullptr);

}  // namespace quipu
