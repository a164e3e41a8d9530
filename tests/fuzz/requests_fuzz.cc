// Any bytes as the body of a request: every reader either makes a request that the engine takes, or
// says what is wrong in text that can be sent.
#include <cstdint>
#include <string_view>

#include "app/assemble.h"
#include "base/utf8.h"
#include "server/generation_spec.h"
#include "server/model_info.h"

namespace quipu {
namespace {

struct Served {
  Served() {
    ModelOptions options;
    options.model = std::filesystem::path(QUIPU_SOURCE_DIR) / "models" / "quipu-stories-q8_0.gguf";
    options.threads = 1;
    options.kv_bytes = uint64_t{4} << 20;
    model = assemble(options).value();
    served.emplace(ServedModel::create(*model, {"stories"}, 4).value());
  }
  std::unique_ptr<LoadedModel> model;
  std::optional<ServedModel> served;
};

void check_error(const ApiError& error) {
  QUIPU_CHECK(error.status >= 400 && error.status < 600, "status {}", error.status);
  QUIPU_CHECK(!error.message.empty(), "an error without a message");
  QUIPU_CHECK(is_valid_utf8(error_response(error).body), "an error that cannot be sent");
}

void check_spec(const GenerationSpec& spec, const ServedModel& model) {
  QUIPU_CHECK(spec.params.sampling.validate().ok(), "sampling");
  QUIPU_CHECK(!spec.prompts.empty() && spec.choices > 0 && spec.params.max_tokens >= 0, "shape");
  QUIPU_CHECK(spec.params.cache_salt.starts_with("tenant"), "a request that left its tenant");
  for (const Prompt& prompt : spec.prompts)
    QUIPU_CHECK(!model.check_prompt(prompt.tokens, "prompt").has_value(), "prompt");
  for (const auto& [id, bias] : spec.params.sampling.logit_bias)
    QUIPU_CHECK(id >= 0 && id < model.vocab_size(), "bias of token {}", id);
}

// Libraries may throw on the type of a value; the server answers 400 to that.
template <typename Read>
void attempt(Read read) {
  try {
    read();
  } catch (const Json::exception&) {
  }
}

}  // namespace
}  // namespace quipu

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quipu;
  static const Served served;
  const ServedModel& model = *served.served;
  const ApiResult<Json> parsed =
      parse_json_object(std::string_view(reinterpret_cast<const char*>(data), size));
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    check_error(*error);
    return 0;
  }
  const Json& body = std::get<Json>(parsed);
  for (const auto read : {read_chat_request, read_completion_request, read_llama_request,
                          read_responses_request, read_anthropic_request}) {
    attempt([&] {
      const ApiResult<GenerationSpec> spec = read(body, model, "tenant");
      if (const auto* error = std::get_if<ApiError>(&spec)) return check_error(*error);
      check_spec(std::get<GenerationSpec>(spec), model);
    });
  }
  for (const auto answer : {tokenize_json, detokenize_json}) {
    attempt([&] {
      const ApiResult<Json> result = answer(body, model);
      if (const auto* error = std::get_if<ApiError>(&result)) return check_error(*error);
      QUIPU_CHECK(is_valid_utf8(json_response(std::get<Json>(result)).body), "an answer");
    });
  }
  return 0;
}
