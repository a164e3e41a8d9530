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
    const std::string role = string_member((*given)[i], "role");
    if (role != "user" && role != "assistant")
      return bad_parameter(fmt::format("messages[{}].role", i),
                           fmt::format("'messages[{}].role' is '{}'; expected 'user' or "
                                       "'assistant'",
                                       i, role));
    messages.push_back((*given)[i]);
  }
  return Json{{"messages", std::move(messages)}};
}

class AnthropicFormat : public ReplyFormat {
 public:
  explicit AnthropicFormat(ReplyContext context) : context_(std::move(context)) {}

  void add_update(const Choice&, const GenerationUpdate& update, std::string& events) override {
    if (update.started) {
      const auto prompt = static_cast<int64_t>(context_.spec->prompts.front().tokens.size());
      Json message = head();
      message["usage"] = {{"input_tokens", prompt}, {"output_tokens", 0}};
      add_typed_event({{"type", "message_start"}, {"message", std::move(message)}}, events);
      add_typed_event({{"type", "content_block_start"},
                       {"index", 0},
                       {"content_block", {{"type", "text"}, {"text", ""}}}},
                      events);
    }
    if (!update.text.empty()) {
      add_typed_event({{"type", "content_block_delta"},
                       {"index", 0},
                       {"delta", {{"type", "text_delta"}, {"text", update.text}}}},
                      events);
    }
    if (update.end.has_value()) {
      add_typed_event({{"type", "content_block_stop"}, {"index", 0}}, events);
      add_typed_event({{"type", "message_delta"},
                       {"delta", reasons(*update.end)},
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
    reply["content"].push_back({{"type", "text"}, {"text", all.text}});
    reply.update(reasons(*all.end));
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

  static Json reasons(const GenerationEnd& end) {
    const bool by_text = !end.stop_string.empty();
    const char* reason = by_text                             ? "stop_sequence"
                         : end.finish == FinishReason::kStop ? "end_turn"
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
  refuse_fields(fields, {"tools", "mcp_servers", "container"});
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
      thinking != nullptr && string_member(*thinking, "type") != "disabled") {
    fields.fail(not_supported("thinking", "'thinking' is not supported by this version of quipu"));
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
