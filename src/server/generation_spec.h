// GenerationSpec: what a request body asks for, in the engine's words. Read from OpenAI's fields
// and from llama.cpp's; what quipu does not do is refused by name, never ignored, where ignoring it
// would change the answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/generation_task.h"
#include "server/answer_format.h"
#include "server/json_body.h"
#include "server/served_model.h"
#include "server/tools.h"

namespace quipu {

struct Prompt {
  std::vector<TokenId> tokens;
  std::string text;  // as the client gave it; empty when it gave ids
};

struct GenerationSpec {
  std::vector<Prompt> prompts;  // one, but for /v1/completions with an array
  GenerationParams params;      // of each choice; choice i of a prompt draws with seed + i
  int choices = 1;              // of each prompt
  int priority = 0;             // lower goes first
  std::string tenant;           // of the request's key
  std::optional<int64_t> timeout_ms;   // that the client gives it
  std::optional<int64_t> deadline_ns;  // that follows from it and the server. UNITS: engine's clock
  bool stream = false;
  bool include_usage = false;  // stream_options.include_usage
  bool echo = false;           // /v1/completions: the prompt's text before the output
  bool return_tokens = false;  // llama.cpp: token ids beside the text
  AnswerFormat answer;         // what the output must be
  ToolRequest tools;           // of conversations
  std::optional<ThinkingFormat> thinking;  // how the model thinks, in conversations
  bool thinking_open = false;              // the prompt ends inside of it
  bool show_thinking = true;               // apart from the text (reasoning_format)
};

// Fields that all bodies share. Defaults are `params` as it is; the seed is drawn when none is
// given.
void read_sampling(Fields& fields, const ServedModel& model, GenerationParams& params);

// OpenAI bodies. `tenant_salt` goes before the request's own cache_salt.
ApiResult<GenerationSpec> read_chat_request(const Json& body, const ServedModel& model,
                                            const std::string& tenant_salt);
ApiResult<GenerationSpec> read_completion_request(const Json& body, const ServedModel& model,
                                                  const std::string& tenant_salt);
// llama.cpp's /completion.
ApiResult<GenerationSpec> read_llama_request(const Json& body, const ServedModel& model,
                                             const std::string& tenant_salt);

// OpenAI's /v1/responses and Anthropic's /v1/messages (responses.cc, anthropic.cc).
ApiResult<GenerationSpec> read_responses_request(const Json& body, const ServedModel& model,
                                                 const std::string& tenant_salt);
ApiResult<GenerationSpec> read_anthropic_request(const Json& body, const ServedModel& model,
                                                 const std::string& tenant_salt);

// ---- what readers of bodies share

inline constexpr int64_t kNoTokenLimit = int64_t{1} << 40;  // the context ends the output before

// model, sampling, cache_salt, priority, timeout_ms, stream.
void read_common(Fields& fields, const ServedModel& model, const std::string& tenant_salt,
                 GenerationSpec& spec);
// Refuses fields that would change the answer and are not there, unless they are off or empty.
void refuse_fields(Fields& fields, std::initializer_list<const char*> names);
// The spec's prompt from {"messages": [...]}, by the chat template.
std::optional<ApiError> read_conversation(const Json& body, const ServedModel& model,
                                          GenerationSpec& spec);
// Compiles what the spec says of its output. Last, when all else is read: it takes the longest.
std::optional<ApiError> constrain_output(const ServedModel& model, GenerationSpec& spec);
// The text of a member; empty when it is absent, is not text, or `json` is no object.
std::string string_member(const Json& json, const char* name);

// reasoning_format: "auto" tells what the model thinks apart, "none" leaves it in the text.
void read_reasoning_format(Fields& fields, GenerationSpec& spec);

// The prompt text of {"messages": [...]} with these tools. Used by chat requests and by
// /apply-template (conversation.cc).
ApiResult<std::string> render_messages(const Json& body, const ToolRequest& tools,
                                       const ServedModel& model);

}  // namespace quipu
