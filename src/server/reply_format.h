// ReplyFormat: how one API tells what became of a generation: whole, or as server-sent events.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/generation_spec.h"

namespace quipu {

// One output of a request.
struct Choice {
  int index = 0;      // in the reply
  size_t prompt = 0;  // which of the request's prompts it continues
  // Everything so far for a whole reply; without text, tokens and log probabilities for a stream.
  GenerationUpdate all;
  int64_t tokens_sent = 0;  // of a stream: before the update that is being told
  size_t text_sent = 0;     // bytes, likewise
};

// An output as a message: what its pieces say, joined.
struct OutputMessage {
  struct Call {
    std::string id, name, arguments;
  };
  std::string thinking, content;
  std::vector<Call> calls;
};
std::string call_id(std::string_view prefix, const std::string& reply_id, int choice, size_t call);

class ReplyFormat {
 public:
  virtual ~ReplyFormat() = default;

  // Appends the events that tell `update`; when it has an end, that of the choice too.
  virtual void add_update(const Choice& choice, const GenerationUpdate& update,
                          std::string& events) = 0;
  // Appends what follows when all choices have ended.
  virtual void add_end(const std::vector<Choice>& choices, std::string& events) = 0;
  // Appends an error in the middle of a stream, which ends there.
  virtual void add_error(const ApiError& error, std::string& events) = 0;

  virtual Json whole(const std::vector<Choice>& choices) = 0;
  // The body of an error.
  virtual Json error(const ApiError& error) { return error_to_json(error); }
};

// What formats need to know. OWNS: the model must outlive the format; the spec is shared with the
// call that runs it.
struct ReplyContext {
  const ServedModel& model;
  std::shared_ptr<const GenerationSpec> spec;
  std::string id;         // of the reply, such as "chatcmpl-..."
  int64_t created_s = 0;  // UNITS: seconds since 1970
};

// The pieces of an update; those of an output without a layout are its text.
std::vector<OutputPiece> pieces_of(const ReplyContext& context, const GenerationUpdate& update);
// `prefix`: of the ids of calls, such as "call_".
OutputMessage message_of(const ReplyContext& context, const GenerationUpdate& all,
                         std::string_view prefix, int choice);

std::unique_ptr<ReplyFormat> make_chat_format(ReplyContext context);
std::unique_ptr<ReplyFormat> make_completion_format(ReplyContext context);
std::unique_ptr<ReplyFormat> make_llama_format(ReplyContext context);
std::unique_ptr<ReplyFormat> make_responses_format(ReplyContext context);
std::unique_ptr<ReplyFormat> make_anthropic_format(ReplyContext context);

// Anthropic's form of an error: {"type": "error", "error": {"type", "message"}}.
Json anthropic_error(const ApiError& error);

// "data: {...}\n\n", and the same after "event: NAME\n", the name being the data's "type".
void add_event(const Json& data, std::string& events);
void add_typed_event(const Json& data, std::string& events);

// {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details":
// {"cached_tokens"}} of all choices together; a prompt counts once, however many choices continue
// it.
Json usage_to_json(const std::vector<Choice>& choices);

}  // namespace quipu
