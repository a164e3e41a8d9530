// Anthropic's /v1/messages: reading its bodies, and its replies.
// SOURCE: Anthropic's Messages API and its streaming events.
#include "server/generation_spec.h"
#include "server/reply_format.h"

namespace quipu {

namespace {

constexpr size_t kStopSequencesMax = 16;

const char* error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    case 504: return "timeout_error";
    default: return status >= 500 && status != 501 ? "api_error" : "invalid_request_error";
  }
}

// The text of a tool's result: a string, or text blocks.
Json result_content(const Json& block) {
  const auto content = block.find("content");
  return content == block.end() || content->is_null() ? Json("") : *content;
}

// A message of blocks as messages in OpenAI's form: results of tools first, each on its own.
void add_blocks(const Json& given, const std::string& role, Json& messages) {
  Json message = {{"role", role}, {"content", Json::array()}};
  std::string thinking;
  for (const Json& block : given["content"]) {
    const std::string type = string_member(block, "type");
    if (type == "tool_result") {
      messages.push_back({{"role", "tool"},
                          {"tool_call_id", string_member(block, "tool_use_id")},
                          {"content", result_content(block)}});
    } else if (type == "tool_use") {
      const auto input = block.find("input");
      message["tool_calls"].push_back(
          {{"id", string_member(block, "id")},
           {"type", "function"},
           {"function",
            {{"name", string_member(block, "name")},
             {"arguments", input != block.end() ? *input : Json::object()}}}});
    } else if (type == "thinking") {
      thinking += string_member(block, "thinking");
    } else if (type != "redacted_thinking") {
      message["content"].push_back(block);
    }
  }
  if (!thinking.empty()) message["reasoning_content"] = thinking;
  if (!message["content"].empty() || message.contains("tool_calls") || given["content"].empty())
    messages.push_back(std::move(message));
}

// The messages in OpenAI's form: the system text as the first of them.
ApiResult<Json> messages_to_conversation(const Json& body) {
  Json messages = Json::array();
  if (const auto system = body.find("system"); system != body.end() && !system->is_null())
    messages.push_back({{"role", "system"}, {"content", *system}});
  const auto given = body.find("messages");
  if (given == body.end() || !given->is_array() || given->empty())
    return bad_parameter("messages", "'messages' is missing or empty",
                         "missing_required_parameter");
  for (size_t i = 0; i < given->size(); ++i) {
    const Json& message = (*given)[i];
    const std::string role = string_member(message, "role");
    if (role != "user" && role != "assistant")
      return bad_parameter(fmt::format("messages[{}].role", i),
                           fmt::format("'messages[{}].role' is '{}'; expected 'user' or "
                                       "'assistant'",
                                       i, role));
    if (message.contains("content") && message["content"].is_array()) {
      add_blocks(message, role, messages);
    } else {
      messages.push_back(message);
    }
  }
  return Json{{"messages", std::move(messages)}};
}

class AnthropicFormat : public ReplyFormat {
 public:
  explicit AnthropicFormat(ReplyContext context) : context_(std::move(context)) {}

  void add_update(const Choice& choice, const GenerationUpdate& update,
                  std::string& events) override {
    if (update.started) {
      const auto prompt = static_cast<int64_t>(context_.spec->prompts.front().tokens.size());
      Json message = head();
      message["usage"] = {{"input_tokens", prompt}, {"output_tokens", 0}};
      add_typed_event({{"type", "message_start"}, {"message", std::move(message)}}, events);
    }
    for (const OutputPiece& piece : pieces_of(context_, update)) {
      open_block(piece, choice.index, events);
      if (Json delta = block_delta(piece); !delta.is_null()) {
        add_typed_event(
            {{"type", "content_block_delta"}, {"index", blocks_ - 1}, {"delta", std::move(delta)}},
            events);
      }
    }
    if (update.end.has_value()) {
      if (blocks_ == 0) open_block({OutputPiece::Kind::kContent, ""}, choice.index, events);
      close_block(events);
      add_typed_event({{"type", "message_delta"},
                       {"delta", reasons(*update.end, calls_ > 0)},
                       {"usage", usage(update.end->stats)}},
                      events);
    }
  }

  void add_end(const std::vector<Choice>&, std::string& events) override {
    add_typed_event({{"type", "message_stop"}}, events);
  }

  void add_error(const ApiError& error, std::string& events) override {
    add_typed_event(anthropic_error(error), events);
  }

  Json whole(const std::vector<Choice>& choices) override {
    const GenerationUpdate& all = choices.front().all;
    Json reply = head();
    const OutputMessage output = message_of(context_, all, "toolu_", 0);
    Json& content = reply["content"];
    if (!output.thinking.empty())
      content.push_back({{"type", "thinking"}, {"thinking", output.thinking}, {"signature", ""}});
    if (!output.content.empty() || output.calls.empty())
      content.push_back({{"type", "text"}, {"text", output.content}});
    for (const OutputMessage::Call& call : output.calls) {
      Json input = Json::parse(call.arguments, nullptr, /*allow_exceptions=*/false);
      if (input.is_discarded()) input = Json::object();  // cut off by max_tokens
      content.push_back({{"type", "tool_use"},
                         {"id", call.id},
                         {"name", call.name},
                         {"input", std::move(input)}});
    }
    reply.update(reasons(*all.end, !output.calls.empty()));
    reply["usage"] = usage(all.end->stats);
    return reply;
  }

  Json error(const ApiError& error) override { return anthropic_error(error); }

 private:
  Json head() const {
    return {{"id", context_.id},        {"type", "message"},
            {"role", "assistant"},      {"model", context_.model.name()},
            {"content", Json::array()}, {"stop_reason", nullptr},
            {"stop_sequence", nullptr}};
  }

  // A block for the piece, unless the last one takes it: calls each have one of their own.
  void open_block(const OutputPiece& piece, int choice, std::string& events) {
    using Kind = OutputPiece::Kind;
    if (piece.kind == Kind::kArguments || (open_ == piece.kind && piece.kind != Kind::kCall))
      return;
    close_block(events);
    Json block;
    if (piece.kind == Kind::kThinking) {
      block = {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
    } else if (piece.kind == Kind::kCall) {
      block = {{"type", "tool_use"},
               {"id", call_id("toolu_", context_.id, choice, calls_++)},
               {"name", piece.text},
               {"input", Json::object()}};
    } else {
      block = {{"type", "text"}, {"text", ""}};
    }
    open_ = piece.kind;
    add_typed_event({{"type", "content_block_start"},
                     {"index", blocks_++},
                     {"content_block", std::move(block)}},
                    events);
  }

  void close_block(std::string& events) {
    if (!open_.has_value()) return;
    open_.reset();
    add_typed_event({{"type", "content_block_stop"}, {"index", blocks_ - 1}}, events);
  }

  static Json block_delta(const OutputPiece& piece) {
    switch (piece.kind) {
      case OutputPiece::Kind::kThinking:
        return {{"type", "thinking_delta"}, {"thinking", piece.text}};
      case OutputPiece::Kind::kContent: return {{"type", "text_delta"}, {"text", piece.text}};
      case OutputPiece::Kind::kArguments:
        return {{"type", "input_json_delta"}, {"partial_json", piece.text}};
      case OutputPiece::Kind::kCall: break;
    }
    return nullptr;
  }

  static Json reasons(const GenerationEnd& end, bool has_calls) {
    const bool by_text = !end.stop_string.empty();
    const char* reason = by_text                                          ? "stop_sequence"
                         : end.finish == FinishReason::kStop && has_calls ? "tool_use"
                         : end.finish == FinishReason::kStop              ? "end_turn"
                                                                          : "max_tokens";
    return {{"stop_reason", reason},
            {"stop_sequence", by_text ? Json(end.stop_string) : Json(nullptr)}};
  }

  // Anthropic counts cached tokens apart from the others.
  static Json usage(const RequestStats& stats) {
    return {{"input_tokens", stats.prompt_tokens - stats.cached_tokens},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", stats.cached_tokens},
            {"output_tokens", stats.completion_tokens}};
  }

  const ReplyContext context_;
  // Of a stream: what was told so far.
  int blocks_ = 0;
  size_t calls_ = 0;
  std::optional<OutputPiece::Kind> open_;  // the block that is open
};

}  // namespace

ApiResult<GenerationSpec> read_anthropic_request(const Json& body, const ServedModel& model,
                                                 const std::string& tenant_salt) {
  GenerationSpec spec;
  spec.params.sampling.temperature = 1;
  Fields fields(body);
  read_common(fields, model, tenant_salt, spec);
  if (std::optional<std::vector<std::string>> stops =
          fields.texts("stop_sequences", kStopSequencesMax)) {
    for (const std::string& stop : *stops) {
      if (stop.empty()) fields.fail(bad_parameter("stop_sequences", "a stop sequence is empty"));
    }
    spec.params.stop = std::move(*stops);
  }
  const std::optional<int64_t> tokens = fields.integer("max_tokens", 1, kNoTokenLimit);
  if (!tokens.has_value()) {
    fields.fail(
        bad_parameter("max_tokens", "'max_tokens' is missing", "missing_required_parameter"));
  }
  spec.params.max_tokens = tokens.value_or(0);
  spec.tools = read_tools(fields, ToolDialect::kAnthropic);
  read_reasoning_format(fields, spec);
  refuse_fields(fields, {"mcp_servers", "container"});
  if (const Json* format = fields.value("output_format"))
    spec.answer = read_typed_format(*format, "output_format", fields);
  if (const Json* config = fields.value("output_config")) {
    Fields inner(*config, "output_config");
    if (const Json* format = inner.value("format"))
      spec.answer = read_typed_format(*format, "output_config.format", fields);
    refuse_fields(inner, {"effort"});
    if (inner.error().has_value()) fields.fail(*inner.error());
  }

  if (const Json* thinking = fields.value("thinking");
      thinking != nullptr && string_member(*thinking, "type") != "disabled" &&
      !model.thinking_format().has_value()) {
    fields.fail(
        not_supported("thinking", "'thinking': this model does not think before it answers"));
  }
  if (fields.error().has_value()) return *fields.error();
  ApiResult<Json> conversation = messages_to_conversation(body);
  if (auto* error = std::get_if<ApiError>(&conversation)) return std::move(*error);
  if (std::optional<ApiError> error = read_conversation(std::get<Json>(conversation), model, spec))
    return std::move(*error);
  if (std::optional<ApiError> error = constrain_output(model, spec)) return std::move(*error);
  return spec;
}

Json anthropic_error(const ApiError& error) {
  return {{"type", "error"},
          {"error", {{"type", error_type(error.status)}, {"message", error.message}}}};
}

std::unique_ptr<ReplyFormat> make_anthropic_format(ReplyContext context) {
  return std::make_unique<AnthropicFormat>(std::move(context));
}

}  // namespace quipu
