#include "server/served_model.h"

#include <algorithm>
#include <chrono>

#include "app/chat.h"

namespace quipu {

Result<ServedModel> ServedModel::create(const LoadedModel& model, std::vector<std::string> names,
                                        int parallel) {
  QUIPU_CHECK(!names.empty(), "a served model needs a name");
  QUIPU_RETURN_IF_ERROR(require_tokenizer(model));
  ServedModel served;
  served.model_ = &model;
  served.names_ = std::move(names);
  served.parallel_ = parallel;
  served.token_limit_ = model.engine->scheduler().token_limit();
  served.created_s_ = std::chrono::duration_cast<std::chrono::seconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  served.tool_format_ = tool_format_of(*model.tokenizer);
  served.thinking_format_ = thinking_format_of(*model.tokenizer);
  served.compiler_ = std::make_unique<ConstraintCompiler>(*model.tokenizer);
  served.constraints_ = std::make_unique<ConstraintCache>(*served.compiler_);
  Result<std::optional<ChatTemplate>> chat_template = chat_template_of(model);
  if (!chat_template.ok()) return chat_template.status().with_context("the model's chat template");
  served.chat_template_ = std::move(*chat_template);
  return served;
}

std::optional<ApiError> ServedModel::check_name(const std::optional<std::string>& name) const {
  if (!name.has_value() || name->empty() ||
      std::find(names_.begin(), names_.end(), *name) != names_.end())
    return std::nullopt;
  std::string known;
  for (const std::string& own : names_) known += (known.empty() ? "'" : ", '") + own + "'";
  ApiError error = bad_parameter(
      "model", fmt::format("the model '{}' is not served here; this server has {}", *name, known),
      "model_not_found");
  error.status = 404;
  return error;
}

std::optional<ApiError> ServedModel::check_prompt(const std::vector<TokenId>& prompt,
                                                  std::string_view param) const {
  const auto count = static_cast<int64_t>(prompt.size());
  if (count == 0) return bad_parameter(param, "the prompt has no tokens");
  if (count >= token_limit_) {
    return bad_parameter(
        param,
        fmt::format("the prompt has {} tokens, and with at least one of output that is more than "
                    "the {} this server holds for a request",
                    count, token_limit_),
        "context_length_exceeded");
  }
  for (const TokenId id : prompt) {
    if (id < 0 || id >= vocab_size()) {
      return bad_parameter(
          param, fmt::format("token id {} is outside the vocabulary of {}", id, vocab_size()));
    }
  }
  return std::nullopt;
}

ApiResult<std::vector<TokenId>> ServedModel::encode(const std::string& text,
                                                    EncodeOptions options) const {
  Result<std::vector<TokenId>> ids = tokenizer().encode(text, options);
  if (!ids.ok()) return api_error_from(ids.status());
  return std::move(*ids);
}

ApiResult<std::string> ServedModel::render(const Json& messages, const Json& tools,
                                           const Json& extra, bool add_generation_prompt) const {
  if (!chat_template_.has_value()) {
    return bad_parameter("messages",
                         "this model has no chat template; use /v1/completions to continue text",
                         "not_supported");
  }
  Result<std::string> text = chat_template_->render(
      messages, tools, {.add_generation_prompt = add_generation_prompt, .extra = extra});
  if (!text.ok()) {
    return bad_parameter("messages", "the chat template refuses this: " + text.status().message());
  }
  return std::move(*text);
}

Result<std::shared_ptr<const Constraint>> ServedModel::constrain(
    const std::string& tenant, const ConstraintSource& source) const {
  return constraints_->get(tenant, source);
}

}  // namespace quipu
