#include "app/chat.h"

namespace quipu {

Result<std::string> render_chat(const LoadedModel& model, const nlohmann::ordered_json& messages,
                                const nlohmann::ordered_json& tools) {
  QUIPU_RETURN_IF_ERROR(require_tokenizer(model));
  const Tokenizer& tokenizer = *model.tokenizer;
  if (tokenizer.chat_template().empty()) {
    return make_error(ErrorCode::kUnsupported,
                      "{}: this model has no chat template; use `quipu run` to continue text",
                      model.file->path().string());
  }
  Result<ChatTemplate> chat_template =
      ChatTemplate::compile(tokenizer.chat_template(), tokenizer.special_texts());
  if (!chat_template.ok()) return chat_template.status().with_context(model.file->path().string());
  return chat_template->render(messages, tools, {.add_generation_prompt = true});
}

}  // namespace quipu
