#include "app/chat.h"

namespace quipu {

Result<std::optional<ChatTemplate>> chat_template_of(const LoadedModel& model) {
  if (model.tokenizer == nullptr || model.tokenizer->chat_template().empty())
    return std::optional<ChatTemplate>();
  QUIPU_ASSIGN_OR_RETURN(
      ChatTemplate compiled,
      ChatTemplate::compile(model.tokenizer->chat_template(), model.tokenizer->special_texts()));
  return std::optional<ChatTemplate>(std::move(compiled));
}

Result<std::string> render_chat(const LoadedModel& model, const nlohmann::ordered_json& messages,
                                const nlohmann::ordered_json& tools) {
  QUIPU_RETURN_IF_ERROR(require_tokenizer(model));
  Result<std::optional<ChatTemplate>> chat_template = chat_template_of(model);
  if (!chat_template.ok()) return chat_template.status().with_context(model.file->path().string());
  if (!chat_template->has_value()) {
    return make_error(ErrorCode::kUnsupported,
                      "{}: this model has no chat template; use `quipu run` to continue text",
                      model.file->path().string());
  }
  return (*chat_template)->render(messages, tools, {.add_generation_prompt = true});
}

}  // namespace quipu
