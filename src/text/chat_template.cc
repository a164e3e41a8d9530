#include "text/chat_template.h"

#include <ctime>

#include "text/shim_call.h"

namespace quipu {

using text_internal::bytes_of;
using text_internal::ShimBuffer;
using text_internal::status_of;

namespace {

TemplateClock local_clock() {
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  localtime_r(&now, &local);
  return {static_cast<int64_t>(now), static_cast<int32_t>(local.tm_gmtoff)};
}

}  // namespace

void ChatTemplate::Free::operator()(QuipuTemplate* handle) const { quipu_template_free(handle); }

Result<ChatTemplate> ChatTemplate::compile(std::string_view source, ChatTemplateTokens tokens) {
  text_internal::initialise();
  QuipuTemplate* handle = nullptr;
  ShimBuffer message;
  const int32_t code = quipu_template_compile(bytes_of(source), &handle, message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kCorruptData));
  return ChatTemplate(handle, std::move(tokens));
}

Result<std::string> ChatTemplate::render(const nlohmann::ordered_json& messages,
                                         const nlohmann::ordered_json& tools,
                                         const ChatRenderOptions& options) const {
  // The variables that transformers passes. Absent tools are None, not an empty list, and special
  // tokens that a model lacks are undefined.
  nlohmann::ordered_json context = nlohmann::ordered_json::object();
  context["messages"] = messages;
  context["tools"] = tools.is_array() && tools.empty() ? nlohmann::ordered_json() : tools;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  const std::pair<const char*, const std::string*> specials[] = {
      {"bos_token", &tokens_.bos},
      {"eos_token", &tokens_.eos},
      {"unk_token", &tokens_.unknown},
      {"pad_token", &tokens_.padding}};
  for (const auto& [name, text] : specials) {
    if (!text->empty()) context[name] = *text;
  }
  if (options.extra.is_object()) context.update(options.extra);

  // Bytes that are not UTF-8 become U+FFFD; the conversation came from outside.
  const std::string json =
      context.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  const TemplateClock clock = options.clock.value_or(local_clock());
  ShimBuffer text;
  ShimBuffer message;
  const int32_t code =
      quipu_template_render(handle_.get(), bytes_of(json), clock.now_unix_s, clock.utc_offset_s,
                            options.fuel, text.out(), message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kInvalidArgument));
  return std::string(text.view());
}

}  // namespace quipu
