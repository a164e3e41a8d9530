// ToolRequest: the tools that a request offers, and whether the output may or must call them; from
// OpenAI's, Anthropic's and the Responses API's bodies.
#pragma once

#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/json_body.h"
#include "text/tool_format.h"

namespace quipu {

struct ToolRequest {
  enum class Use { kNone, kAuto, kRequired };

  Use use = Use::kNone;
  Json list = Json::array();        // all tools, in OpenAI's form, as chat templates take them
  std::vector<ToolChoice> choices;  // that may be called
  bool parallel = true;             // several in one output

  bool may_call() const { return use != Use::kNone; }
};

enum class ToolDialect {
  kChat,       // {"type": "function", "function": {"name", "parameters"}}
  kResponses,  // {"type": "function", "name", "parameters"}
  kAnthropic,  // {"name", "input_schema"}
};

// Reads tools, tool_choice and parallel_tool_calls. What is wrong goes to `fields`.
ToolRequest read_tools(Fields& fields, ToolDialect dialect);

}  // namespace quipu
