#include <quipu/session.h>

#include "library/state.h"

namespace quipu::v1 {

Session::Session(Model model, std::string cache_salt)
    : model_(std::move(model)), cache_salt_(std::move(cache_salt)) {}

Result<Done> Session::append(std::string_view text) {
  Result<std::vector<TokenId>> ids = model_.encode(text, {.add_special = tokens_.empty()});
  if (!ids.ok()) return ids.error();
  append_tokens(*ids);
  return Done{};
}

void Session::append_tokens(std::span<const TokenId> tokens) {
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

Result<GenerationResult> Session::generate(const GenerationOptions& options,
                                           const TextCallback& on_text) {
  if (tokens_.empty())
    return Error{ErrorCode::kInvalidArgument, "the session is empty; append something first"};
  Result<GenerationResult> result = model_.generate(
      {.prompt = {}, .prompt_tokens = tokens_, .options = options, .cache_salt = cache_salt_},
      on_text);
  if (result.ok()) append_tokens(result->tokens);
  return result;
}

void Session::truncate(std::int64_t count) {
  if (count >= 0 && static_cast<size_t>(count) < tokens_.size())
    tokens_.resize(static_cast<size_t>(count));
}

}  // namespace quipu::v1
