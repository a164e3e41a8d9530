// OpenAI's /v1/responses: reading its bodies, and its replies. Nothing is stored: a reply cannot be
// fetched or continued later by its id.
// SOURCE: OpenAI's OpenAPI description, schemas CreateResponse, Response, ResponseStreamEvent.
#include "server/generation_spec.h"
#include "server/reply_format.h"

namespace quipu {

namespace {

// `input` and `instructions` as messages of a chat.
ApiResult<Json> input_to_conversation(const Json& body) {
  Json messages = Json::array();
  if (const std::string instructions = string_member(body, "instructions"); !instructions.empty())
    messages.push_back({{"role", "system"}, {"content", instructions}});
  const auto input = body.find("input");
  if (input != body.end() && input->is_string()) {
    messages.push_back({{"role", "user"}, {"content", *input}});
  } else if (input != body.end() && input->is_array() && !input->empty()) {
    for (size_t i = 0; i < input->size(); ++i) {
      const Json& item = (*input)[i];
      const std::string type = string_member(item, "type");
      if (!item.is_object() || (!type.empty() && type != "message")) {
        return not_supported(fmt::format("input[{}]", i),
                             fmt::format("'input[{}]' is not a message; other items are not "
                                         "supported by this version of quipu",
                                         i));
      }
      messages.push_back(
          {{"role", item.value("role", Json())}, {"content", item.value("content", Json())}});
    }
  } else {
    return bad_parameter("input",
                         "'input' is missing or empty; expected a string or an array of messages",
                         "missing_required_parameter");
  }
  return Json{{"messages", std::move(messages)}};
}

class ResponsesFormat : public ReplyFormat {
 public:
  explicit ResponsesFormat(ReplyContext context) : context_(std::move(context)) {}

  void add_update(const Choice&, const GenerationUpdate& update, std::string& events) override {
    if (update.started) {
      Json pending = head("in_progress");
      add("response.created", {{"response", pending}}, events);
      add("response.in_progress", {{"response", std::move(pending)}}, events);
      add("response.output_item.added",
          {{"output_index", 0}, {"item", item("in_progress", Json::array())}}, events);
      add("response.content_part.added", in_part({{"part", part("")}}), events);
    }
    if (!update.text.empty()) {
      text_ += update.text;
      add("response.output_text.delta",
          in_part({{"delta", update.text}, {"logprobs", Json::array()}}), events);
    }
    if (update.end.has_value()) end_ = update.end;
  }

  void add_end(const std::vector<Choice>&, std::string& events) override {
    add("response.output_text.done", in_part({{"text", text_}, {"logprobs", Json::array()}}),
        events);
    add("response.content_part.done", in_part({{"part", part(text_)}}), events);
    const Json response = finished(text_, *end_);
    add("response.output_item.done", {{"output_index", 0}, {"item", response["output"][0]}},
        events);
    add(is_complete(*end_) ? "response.completed" : "response.incomplete", {{"response", response}},
        events);
  }

  void add_error(const ApiError& error, std::string& events) override {
    add("error",
        {{"code", error.code.value_or("error")}, {"message", error.message}, {"param", nullptr}},
        events);
  }

  Json whole(const std::vector<Choice>& choices) override {
    const GenerationUpdate& all = choices.front().all;
    return finished(all.text, *all.end);
  }

 private:
  static bool is_complete(const GenerationEnd& end) { return end.finish == FinishReason::kStop; }

  void add(const char* type, Json fields, std::string& events) {
    Json data = {{"type", type}, {"sequence_number", sequence_number_++}};
    data.update(fields);
    add_typed_event(data, events);
  }

  // Fields that place an event in the only part of the only item.
  Json in_part(Json fields) const {
    Json all = {{"item_id", item_id()}, {"output_index", 0}, {"content_index", 0}};
    all.update(fields);
    return all;
  }

  std::string item_id() const { return "msg_" + context_.id; }

  static Json part(const std::string& text) {
    return {{"type", "output_text"},
            {"text", text},
            {"annotations", Json::array()},
            {"logprobs", Json::array()}};
  }

  Json item(const char* status, Json content) const {
    return {{"id", item_id()},
            {"type", "message"},
            {"role", "assistant"},
            {"status", status},
            {"content", std::move(content)}};
  }

  Json head(const char* status) const {
    const GenerationParams& params = context_.spec->params;
    Json reply = {{"id", context_.id},
                  {"object", "response"},
                  {"created_at", context_.created_s},
                  {"status", status},
                  {"error", nullptr},
                  {"incomplete_details", nullptr},
                  {"instructions", nullptr},
                  {"metadata", Json::object()},
                  {"model", context_.model.name()},
                  {"output", Json::array()},
                  {"parallel_tool_calls", false},
                  {"temperature", params.sampling.temperature},
                  {"top_p", params.sampling.top_p},
                  {"tool_choice", "none"},
                  {"tools", Json::array()},
                  {"store", false}};
    if (params.max_tokens < kNoTokenLimit) reply["max_output_tokens"] = params.max_tokens;
    return reply;
  }

  Json finished(const std::string& text, const GenerationEnd& end) const {
    const char* status = is_complete(end) ? "completed" : "incomplete";
    Json reply = head(status);
    if (!is_complete(end)) reply["incomplete_details"] = {{"reason", "max_output_tokens"}};
    reply["output"] = Json::array({item(status, Json::array({part(text)}))});
    const RequestStats& stats = end.stats;
    reply["usage"] = {{"input_tokens", stats.prompt_tokens},
                      {"input_tokens_details",
                       {{"cached_tokens", stats.cached_tokens}, {"cache_write_tokens", 0}}},
                      {"output_tokens", stats.completion_tokens},
                      {"output_tokens_details", {{"reasoning_tokens", 0}}},
                      {"total_tokens", stats.prompt_tokens + stats.completion_tokens}};
    return reply;
  }

  const ReplyContext context_;
  int64_t sequence_number_ = 0;
  std::string text_;  // of a stream so far
  std::optional<GenerationEnd> end_;
};

}  // namespace

ApiResult<GenerationSpec> read_responses_request(const Json& body, const ServedModel& model,
                                                 const std::string& tenant_salt) {
  GenerationSpec spec;
  spec.params.sampling.temperature = 1;
  Fields fields(body);
  read_common(fields, model, tenant_salt, spec);
  spec.params.max_tokens =
      fields.integer("max_output_tokens", 1, kNoTokenLimit).value_or(kNoTokenLimit);
  refuse_fields(fields, {"tools", "previous_response_id", "conversation", "background", "prompt",
                         "include", "top_logprobs"});
  if (const Json* text = fields.value("text")) {
    const auto format = text->is_object() ? text->find("format") : text->end();
    if (text->is_object() && format != text->end() && !format->is_null())
      spec.answer = read_typed_format(*format, "text.format", fields);
  }
  if (const Json* truncation = fields.value("truncation");
      truncation != nullptr && *truncation != "disabled") {
    fields.fail(not_supported("truncation", "'truncation' other than 'disabled' is not supported"));
  }
  if (fields.error().has_value()) return *fields.error();
  ApiResult<Json> conversation = input_to_conversation(body);
  if (auto* error = std::get_if<ApiError>(&conversation)) return std::move(*error);
  if (std::optional<ApiError> error = read_conversation(std::get<Json>(conversation), model, spec))
    return std::move(*error);
  if (std::optional<ApiError> error = constrain_output(model, spec)) return std::move(*error);
  return spec;
}

std::unique_ptr<ReplyFormat> make_responses_format(ReplyContext context) {
  return std::make_unique<ResponsesFormat>(std::move(context));
}

}  // namespace quipu
