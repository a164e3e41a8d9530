// ServedModel: what request handlers need to know of the model that is served.
// THREADS: immutable once made, and of the model it uses only what is immutable after loading
// (tokenizer, template, configuration); the engine itself is reached through the EngineThread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/engine_thread.h"
#include "server/api_error.h"
#include "text/chat_template.h"
#include "text/constraint_cache.h"
#include "text/tool_format.h"

namespace quipu {

class ServedModel {
 public:
  // `names`: what clients may call it; the first is how it calls itself.
  // OWNS: nothing given; all must outlive this. REQUIRES: a name, a tokenizer; called before the
  // engine thread of this model starts. ERRORS: the chat template's, when there is one.
  static Result<ServedModel> create(const LoadedModel& model, std::vector<std::string> names,
                                    int parallel);

  const std::string& name() const { return names_.front(); }
  const std::vector<std::string>& names() const { return names_; }
  const LoadedModel& model() const { return *model_; }
  const Tokenizer& tokenizer() const { return *model_->tokenizer; }
  bool has_chat_template() const { return chat_template_.has_value(); }
  int64_t created_s() const { return created_s_; }      // UNITS: seconds since 1970
  int64_t token_limit() const { return token_limit_; }  // UNITS: tokens of prompt and output
  int parallel() const { return parallel_; }
  int64_t vocab_size() const { return model_->model->config().vocab_size; }

  // 404 when `name` is given and not one of its own.
  std::optional<ApiError> check_name(const std::optional<std::string>& name) const;
  // 400 with the numbers when the prompt can never fit, or an id is not in the vocabulary.
  std::optional<ApiError> check_prompt(const std::vector<TokenId>& prompt,
                                       std::string_view param) const;

  ApiResult<std::vector<TokenId>> encode(const std::string& text, EncodeOptions options) const;
  // The prompt of a conversation. `extra`: more variables of the template, an object.
  // `tools`: in OpenAI's form, or null.
  ApiResult<std::string> render(const Json& messages, const Json& tools, const Json& extra,
                                bool add_generation_prompt) const;
  const ToolFormat& tool_format() const { return tool_format_; }
  const std::optional<ThinkingFormat>& thinking_format() const { return thinking_format_; }
  // What an output may be; kept for this tenant's next requests. ERRORS: as
  // ConstraintCompiler::compile(). THREADS: any.
  Result<std::shared_ptr<const Constraint>> constrain(const std::string& tenant,
                                                      const ConstraintSource& source) const;
  const ConstraintCache& constraints() const { return *constraints_; }

 private:
  ServedModel() = default;

  const LoadedModel* model_ = nullptr;
  std::vector<std::string> names_;
  std::optional<ChatTemplate> chat_template_;
  std::unique_ptr<ConstraintCompiler> compiler_;
  std::unique_ptr<ConstraintCache> constraints_;  // of the compiler's
  ToolFormat tool_format_;
  std::optional<ThinkingFormat> thinking_format_;
  int64_t created_s_ = 0;
  int64_t token_limit_ = 0;
  int parallel_ = 0;
};

}  // namespace quipu
