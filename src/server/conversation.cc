// Conversations: messages as clients write them, to the prompt that the model's template makes of
// them.
#include <xxhash.h>

#include "server/generation_spec.h"

namespace quipu {

namespace {

constexpr size_t kShortIdLength = 9;

// The text of a message: a string, or parts that are all text.
std::optional<ApiError> flatten_content(Json& message, const std::string& path) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null() || content->is_string()) return std::nullopt;
  if (!content->is_array()) {
    return bad_parameter(path + ".content",
                         fmt::format("'{}.content' is {}; expected a string or an array of parts",
                                     path, json_kind(*content)),
                         "invalid_type");
  }
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const Json& part = (*content)[i];
    const std::string part_path = fmt::format("{}.content[{}]", path, i);
    const std::string type = string_member(part, "type");
    if (type != "text" && type != "input_text" && type != "output_text")
      return not_supported(part_path,
                           fmt::format("'{}' is not text; this model takes text only", part_path));
    if (!part.contains("text") || !part["text"].is_string())
      return bad_parameter(part_path + ".text", "a text part needs a string 'text'");
    text += part["text"].get<std::string>();
  }
  *content = text;
  return std::nullopt;
}

// Calls that an assistant made.
std::optional<ApiError> read_calls(Json& message, const std::string& path) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || calls->is_null()) {
    message.erase("tool_calls");
    return std::nullopt;
  }
  const auto wrong = [&](size_t i) {
    return bad_parameter(fmt::format("{}.tool_calls[{}]", path, i),
                         fmt::format("'{}.tool_calls[{}]' is no call; expected {{\"id\": ..., "
                                     "\"type\": \"function\", \"function\": {{\"name\": ..., "
                                     "\"arguments\": ...}}}}",
                                     path, i));
  };
  if (!calls->is_array()) return wrong(0);
  for (size_t i = 0; i < calls->size(); ++i) {
    Json& call = (*calls)[i];
    const auto function = call.is_object() ? call.find("function") : call.end();
    if (!call.is_object() || function == call.end() || !function->is_object() ||
        string_member(*function, "name").empty())
      return wrong(i);
    const auto arguments = function->find("arguments");
    if (arguments == function->end() || arguments->is_null() || *arguments == "")
      (*function)["arguments"] = Json::object();
  }
  if (!message.contains("content") || message["content"].is_null()) message["content"] = "";
  return std::nullopt;
}

ApiResult<Json> read_messages(const Json& body) {
  const auto found = body.find("messages");
  if (found == body.end() || !found->is_array() || found->empty()) {
    return bad_parameter("messages",
                         "'messages' is missing or empty; expected an array such as "
                         "[{\"role\": \"user\", \"content\": \"...\"}]",
                         "missing_required_parameter");
  }
  Json messages = *found;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string path = fmt::format("messages[{}]", i);
    Json& message = messages[i];
    if (!message.is_object())
      return bad_parameter(path,
                           fmt::format("'{}' is {}; expected an object", path, json_kind(message)),
                           "invalid_type");
    Fields fields(message, path);
    std::optional<std::string> role = fields.text("role");
    if (fields.error().has_value()) return *fields.error();
    if (!role.has_value())
      return bad_parameter(path + ".role", fmt::format("'{}.role' is missing", path),
                           "missing_required_parameter");
    if (*role == "developer") message["role"] = "system";  // the same, to templates
    if (std::optional<ApiError> error = flatten_content(message, path)) return std::move(*error);
    if (std::optional<ApiError> error = read_calls(message, path)) return std::move(*error);
    if (!message.contains("content")) message["content"] = nullptr;
  }
  return messages;
}

// An id as templates want it that refuse others: nine letters and digits, the same for the same id.
std::string short_id(const std::string& id) {
  constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
  uint64_t hash = XXH3_64bits(id.data(), id.size());
  std::string text;
  for (size_t i = 0; i < kShortIdLength; ++i, hash /= kDigits.size())
    text += kDigits[hash % kDigits.size()];
  return text;
}

void shorten_ids(Json& messages) {
  for (Json& message : messages) {
    if (message.contains("tool_call_id"))
      message["tool_call_id"] = short_id(string_member(message, "tool_call_id"));
    if (!message.contains("tool_calls")) continue;
    for (Json& call : message["tool_calls"]) call["id"] = short_id(string_member(call, "id"));
  }
}

// Templates write arguments in their own way: they get JSON, where clients send it as text.
void parse_arguments(Json& messages) {
  for (Json& message : messages) {
    if (!message.contains("tool_calls")) continue;
    for (Json& call : message["tool_calls"]) {
      Json& arguments = call["function"]["arguments"];
      if (!arguments.is_string()) continue;
      Json parsed = Json::parse(arguments.get<std::string>(), nullptr, /*allow_exceptions=*/false);
      if (!parsed.is_discarded()) arguments = std::move(parsed);
    }
  }
}

// As the model wrote it, so that the cache knows it again.
std::string plain_call(const Json& call) {
  const Json& function = call["function"];
  const Json& arguments = function["arguments"];
  return fmt::format("<tool_call>\n{{\"name\": {}, \"arguments\": {}}}\n</tool_call>",
                     dump(function["name"]),
                     arguments.is_string() ? arguments.get<std::string>() : dump(arguments));
}

// For templates that know nothing of tools: they are told in the system message, calls become what
// an assistant said, and results what the user said.
Json plain_messages(const Json& messages, const ToolRequest& tools) {
  Json plain = Json::array();
  if (tools.may_call()) {
    std::string text = "You can call tools. Each line here describes one, as JSON:\n";
    for (const Json& tool : tools.list) text += dump(tool["function"]) + "\n";
    text +=
        "To call a tool, answer with its name and its arguments between these marks:\n"
        "<tool_call>\n{\"name\": NAME, \"arguments\": ARGUMENTS}\n</tool_call>";
    plain.push_back({{"role", "system"}, {"content", text}});
  }
  for (const Json& message : messages) {
    const std::string role = string_member(message, "role");
    Json next = {{"role", role}, {"content", message["content"]}};
    if (role == "system" && !plain.empty() && plain.size() == 1 && tools.may_call()) {
      plain[0]["content"] =
          string_member(message, "content") + "\n\n" + plain[0]["content"].get<std::string>();
      continue;
    }
    if (role == "tool" || role == "function") {
      next = {{"role", "user"},
              {"content", fmt::format("<tool_response>\n{}\n</tool_response>",
                                      string_member(message, "content"))}};
    }
    if (message.contains("tool_calls")) {
      std::string text = string_member(message, "content");
      for (const Json& call : message["tool_calls"])
        text += (text.empty() ? "" : "\n") + plain_call(call);
      next["content"] = text;
    }
    plain.push_back(std::move(next));
  }
  return plain;
}

bool mentions_tools(const Json& messages) {
  for (const Json& message : messages) {
    if (message.contains("tool_calls") || string_member(message, "role") == "tool") return true;
  }
  return false;
}

}  // namespace

ApiResult<std::string> render_messages(const Json& body, const ToolRequest& tools,
                                       const ServedModel& model) {
  ApiResult<Json> read = read_messages(body);
  if (auto* error = std::get_if<ApiError>(&read)) return std::move(*error);
  Json messages = std::move(std::get<Json>(read));
  Fields fields(body);
  const bool opens = fields.boolean("add_generation_prompt").value_or(true);
  const Json* extra = fields.value("chat_template_kwargs");
  if (extra != nullptr && !extra->is_object())
    return bad_parameter("chat_template_kwargs", "'chat_template_kwargs' must be an object");
  if (fields.error().has_value()) return *fields.error();
  const ToolFormat& format = model.tool_format();
  Json list = tools.may_call() ? tools.list : Json(nullptr);
  if (format.family == ToolFamily::kPlain) {
    if (tools.may_call() || mentions_tools(messages)) messages = plain_messages(messages, tools);
    list = nullptr;
  } else {
    parse_arguments(messages);
    if (format.short_ids) shorten_ids(messages);
  }
  return model.render(messages, list, extra == nullptr ? Json::object() : *extra, opens);
}

std::optional<ApiError> read_conversation(const Json& body, const ServedModel& model,
                                          GenerationSpec& spec) {
  if (spec.tools.use == ToolRequest::Use::kAuto &&
      model.tool_format().family == ToolFamily::kUnknown) {
    return not_supported(
        "tools",
        "this model's own way to call tools is not known to this version of quipu; "
        "'tool_choice' 'required' or with a name works");
  }
  ApiResult<std::string> text = render_messages(body, spec.tools, model);
  if (auto* error = std::get_if<ApiError>(&text)) return std::move(*error);
  const std::string& prompt_text = std::get<std::string>(text);
  ApiResult<std::vector<TokenId>> ids =
      model.encode(prompt_text, {.add_special = false, .parse_special = true});
  if (auto* error = std::get_if<ApiError>(&ids)) return std::move(*error);
  Prompt prompt;
  prompt.tokens = std::move(std::get<std::vector<TokenId>>(ids));
  if (std::optional<ApiError> error = model.check_prompt(prompt.tokens, "messages")) return error;
  spec.prompts.push_back(std::move(prompt));
  spec.thinking = model.thinking_format();
  if (spec.thinking.has_value()) {
    const size_t last = prompt_text.find_last_not_of(" \t\r\n");
    spec.thinking_open = std::string_view(prompt_text)
                             .substr(0, last == std::string::npos ? 0 : last + 1)
                             .ends_with(spec.thinking->begin.text);
  }
  return std::nullopt;
}

}  // namespace quipu
