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
      if (type == "function_call") {
        Json call = {{"id", string_member(item, "call_id")},
                     {"type", "function"},
                     {"function",
                      {{"name", string_member(item, "name")},
                       {"arguments", string_member(item, "arguments")}}}};
        // Calls of one turn are one message.
        if (messages.empty() || !messages.back().contains("tool_calls"))
          messages.push_back({{"role", "assistant"}, {"content", ""}});
        messages.back()["tool_calls"].push_back(std::move(call));
      } else if (type == "function_call_output") {
        messages.push_back({{"role", "tool"},
                            {"tool_call_id", string_member(item, "call_id")},
                            {"content", item.value("output", Json(""))}});
      } else if (type == "reasoning") {
        continue;  // what was thought before is not told again
      } else if (!item.is_object() || (!type.empty() && type != "message")) {
        return not_supported(fmt::format("input[{}]", i),
                             fmt::format("'input[{}]' is no message, call or output of one; other "
                                         "items are not supported by this version of quipu",
                                         i));
      } else {
        messages.push_back(
            {{"role", item.value("role", Json())}, {"content", item.value("content", Json())}});
      }
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
    }
    for (const OutputPiece& piece : pieces_of(context_, update)) {
      open_item(piece, events);
      add_piece(piece, events);
    }
    if (update.end.has_value()) end_ = update.end;
  }

  void add_end(const std::vector<Choice>&, std::string& events) override {
    if (output_.empty() && !open_.has_value()) open_item({OutputPiece::Kind::kContent, ""}, events);
    close_item(is_complete(*end_) ? "completed" : "incomplete", events);
    add(is_complete(*end_) ? "response.completed" : "response.incomplete",
        {{"response", finished(output_, *end_)}}, events);
  }

  void add_error(const ApiError& error, std::string& events) override {
    add("error",
        {{"code", error.code.value_or("error")}, {"message", error.message}, {"param", nullptr}},
        events);
  }

  Json whole(const std::vector<Choice>& choices) override {
    const GenerationUpdate& all = choices.front().all;
    const char* status = is_complete(*all.end) ? "completed" : "incomplete";
    const OutputMessage message = message_of(context_, all, "call_", 0);
    Json output = Json::array();
    if (!message.thinking.empty()) output.push_back(reasoning_item(message.thinking));
    if (!message.content.empty() || message.calls.empty())
      output.push_back(message_item(status, message.content));
    for (const OutputMessage::Call& call : message.calls) output.push_back(call_item(status, call));
    return finished(std::move(output), *all.end);
  }

 private:
  static bool is_complete(const GenerationEnd& end) { return end.finish == FinishReason::kStop; }

  void add(const char* type, Json fields, std::string& events) {
    Json data = {{"type", type}, {"sequence_number", sequence_number_++}};
    data.update(fields);
    add_typed_event(data, events);
  }

  // Fields that place an event in the item that is open.
  Json in_item(Json fields) const {
    Json all = {{"item_id", item_id()}, {"output_index", output_.size()}};
    all.update(fields);
    return all;
  }
  Json in_part(Json fields) const {
    Json all = in_item({{"content_index", 0}});
    all.update(fields);
    return all;
  }

  // An item for the piece, unless the one that is open takes it.
  void open_item(const OutputPiece& piece, std::string& events) {
    using Kind = OutputPiece::Kind;
    if (piece.kind == Kind::kArguments || (open_ == piece.kind && piece.kind != Kind::kCall))
      return;
    close_item("completed", events);
    open_ = piece.kind;
    text_.clear();
    Json item;
    if (piece.kind == Kind::kThinking) {
      item = reasoning_item("");
      item["content"] = Json::array();
    } else if (piece.kind == Kind::kCall) {
      call_ = {call_id("call_", context_.id, 0, calls_++), piece.text, ""};
      item = call_item("in_progress", call_);
    } else {
      item = message_item("in_progress", "");
      item["content"] = Json::array();
    }
    add("response.output_item.added", {{"output_index", output_.size()}, {"item", std::move(item)}},
        events);
    if (piece.kind == Kind::kContent)
      add("response.content_part.added", in_part({{"part", part("")}}), events);
  }

  void add_piece(const OutputPiece& piece, std::string& events) {
    switch (piece.kind) {
      case OutputPiece::Kind::kThinking:
        text_ += piece.text;
        return add("response.reasoning_text.delta", in_part({{"delta", piece.text}}), events);
      case OutputPiece::Kind::kContent:
        text_ += piece.text;
        return add("response.output_text.delta",
                   in_part({{"delta", piece.text}, {"logprobs", Json::array()}}), events);
      case OutputPiece::Kind::kArguments:
        call_.arguments += piece.text;
        return add("response.function_call_arguments.delta", in_item({{"delta", piece.text}}),
                   events);
      case OutputPiece::Kind::kCall: return;
    }
  }

  void close_item(const char* status, std::string& events) {
    if (!open_.has_value()) return;
    Json item;
    if (*open_ == OutputPiece::Kind::kThinking) {
      add("response.reasoning_text.done", in_part({{"text", text_}}), events);
      item = reasoning_item(text_);
    } else if (*open_ == OutputPiece::Kind::kCall) {
      add("response.function_call_arguments.done",
          in_item({{"name", call_.name}, {"arguments", call_.arguments}}), events);
      item = call_item(status, call_);
    } else {
      add("response.output_text.done", in_part({{"text", text_}, {"logprobs", Json::array()}}),
          events);
      add("response.content_part.done", in_part({{"part", part(text_)}}), events);
      item = message_item(status, text_);
    }
    open_.reset();
    add("response.output_item.done", {{"output_index", output_.size()}, {"item", item}}, events);
    output_.push_back(std::move(item));
  }

  // Of the item that is open.
  std::string item_id() const {
    if (open_ == OutputPiece::Kind::kThinking) return "rs_" + context_.id;
    if (open_ == OutputPiece::Kind::kCall) return "fc_" + call_.id;
    return "msg_" + context_.id;
  }

  static Json part(const std::string& text) {
    return {{"type", "output_text"},
            {"text", text},
            {"annotations", Json::array()},
            {"logprobs", Json::array()}};
  }

  Json message_item(const char* status, const std::string& text) const {
    return {{"id", "msg_" + context_.id},
            {"type", "message"},
            {"role", "assistant"},
            {"status", status},
            {"content", Json::array({part(text)})}};
  }

  Json reasoning_item(const std::string& text) const {
    Json thought = {{"type", "reasoning_text"}, {"text", text}};
    return {{"id", "rs_" + context_.id},
            {"type", "reasoning"},
            {"summary", Json::array()},
            {"content", Json::array({std::move(thought)})}};
  }

  static Json call_item(const char* status, const OutputMessage::Call& call) {
    return {{"id", "fc_" + call.id}, {"type", "function_call"}, {"status", status},
            {"call_id", call.id},    {"name", call.name},       {"arguments", call.arguments}};
  }

  const char* tool_choice() const {
    switch (context_.spec->tools.use) {
      case ToolRequest::Use::kRequired: return "required";
      case ToolRequest::Use::kAuto: return "auto";
      case ToolRequest::Use::kNone: break;
    }
    return "none";
  }

  // As the request gave them: without the level that chat completions have.
  Json tools() const {
    Json tools = Json::array();
    for (const Json& tool : context_.spec->tools.list) {
      Json flat = {{"type", "function"}};
      flat.update(tool["function"]);
      flat["strict"] = true;
      tools.push_back(std::move(flat));
    }
    return tools;
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
                  {"parallel_tool_calls", context_.spec->tools.parallel},
                  {"temperature", params.sampling.temperature},
                  {"top_p", params.sampling.top_p},
                  {"tool_choice", tool_choice()},
                  {"tools", tools()},
                  {"store", false}};
    if (params.max_tokens < kNoTokenLimit) reply["max_output_tokens"] = params.max_tokens;
    return reply;
  }

  Json finished(Json output, const GenerationEnd& end) const {
    Json reply = head(is_complete(end) ? "completed" : "incomplete");
    if (!is_complete(end)) reply["incomplete_details"] = {{"reason", "max_output_tokens"}};
    reply["output"] = std::move(output);
    const RequestStats& stats = end.stats;
    reply["usage"] = {{"input_tokens", stats.prompt_tokens},
                      {"input_tokens_details",
                       {{"cached_tokens", stats.cached_tokens}, {"cache_write_tokens", 0}}},
                      {"output_tokens", stats.completion_tokens},
                      {"output_tokens_details", {{"reasoning_tokens", end.thinking_tokens}}},
                      {"total_tokens", stats.prompt_tokens + stats.completion_tokens}};
    return reply;
  }

  const ReplyContext context_;
  // Of a stream: what was told so far.
  int64_t sequence_number_ = 0;
  Json output_ = Json::array();            // items that are done
  std::optional<OutputPiece::Kind> open_;  // the item that is not
  std::string text_;
  OutputMessage::Call call_;
  size_t calls_ = 0;
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
  spec.tools = read_tools(fields, ToolDialect::kResponses);
  read_reasoning_format(fields, spec);
  refuse_fields(fields, {"previous_response_id", "conversation", "background", "prompt", "include",
                         "top_logprobs"});
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
