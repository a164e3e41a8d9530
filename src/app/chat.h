// Conversations as text: the model's chat template over a list of messages.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "app/assemble.h"

namespace quipu {

// The text the model continues after these messages (with the assistant's opening).
// SHAPE: messages: [{"role", "content", ...}]; tools: an array in OpenAI's form, or null.
// ERRORS: kUnsupported when the model has no chat template; kInvalidArgument when it refuses them.
Result<std::string> render_chat(const LoadedModel& model, const nlohmann::ordered_json& messages,
                                const nlohmann::ordered_json& tools = nullptr);

}  // namespace quipu
