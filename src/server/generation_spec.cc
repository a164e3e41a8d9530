#include "server/generation_spec.h"

#include <charconv>
#include <cmath>
#include <random>

#include "app/sampling_defaults.h"

namespace quipu {

namespace {

constexpr size_t kStopsMax = 16;
constexpr size_t kStopBytesMax = 1024;
constexpr int kTopLogprobsMax = 20;
constexpr int kChoicesMax = 128;
constexpr size_t kPromptsMax = 128;
constexpr size_t kBiasesMax = 1024;
constexpr size_t kSaltBytesMax = 256;
constexpr int64_t kTimeoutMsMax = 7 * 86'400'000;

uint64_t new_seed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 21) ^ device();  // JSON numbers hold 53 bits exactly
}

// {"42": -1.5} as OpenAI has it, or [[42, -1.5], ...] as llama.cpp has it.
void read_logit_bias(Fields& fields, const ServedModel& model, GenerationParams& params) {
  const Json* biases = fields.value("logit_bias");
  if (biases == nullptr) return;
  const auto refuse = [&](const std::string& what) {
    fields.fail(bad_parameter(fields.path_of("logit_bias"), what));
  };
  if ((!biases->is_object() && !biases->is_array()) || biases->size() > kBiasesMax) {
    return refuse(
        fmt::format("'logit_bias' is {}; expected an object of at most {} members, "
                    "such as {{\"42\": -1.5}}",
                    json_kind(*biases), kBiasesMax));
  }
  const auto add = [&](int64_t id, const Json& bias) {
    if (id < 0 || id >= model.vocab_size())
      return refuse(fmt::format("'logit_bias' has token id {}; the vocabulary has {}", id,
                                model.vocab_size()));
    if (bias.is_boolean() && !bias.get<bool>()) {  // llama.cpp: never this token
      params.sampling.logit_bias.emplace_back(static_cast<TokenId>(id), -1e9f);
    } else if (bias.is_number() && std::abs(bias.get<double>()) <= 1e9) {
      params.sampling.logit_bias.emplace_back(static_cast<TokenId>(id), bias.get<float>());
    } else {
      refuse(fmt::format("'logit_bias' of token {} is {}; expected a number", id, json_kind(bias)));
    }
  };
  if (biases->is_array()) {
    for (const Json& pair : *biases) {
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_integer())
        return refuse("'logit_bias' as an array has pairs of a token id and a number");
      add(pair[0].get<int64_t>(), pair[1]);
    }
    return;
  }
  for (const auto& [key, bias] : biases->items()) {
    int64_t id = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size())
      return refuse(fmt::format("'logit_bias' has the key '{}'; expected a token id", key));
    add(id, bias);
  }
}

void read_stops(Fields& fields, GenerationParams& params) {
  std::optional<std::vector<std::string>> stops = fields.texts("stop", kStopsMax);
  if (!stops.has_value()) return;
  for (const std::string& stop : *stops) {
    if (stop.empty() || stop.size() > kStopBytesMax) {
      fields.fail(bad_parameter("stop", fmt::format("a stop string has {} bytes; expected 1 to {}",
                                                    stop.size(), kStopBytesMax)));
    }
  }
  params.stop = std::move(*stops);
}

void read_salt(Fields& fields, const std::string& tenant_salt, GenerationParams& params) {
  const std::string salt = fields.text("cache_salt").value_or("");
  if (salt.size() > kSaltBytesMax) {
    fields.fail(bad_parameter("cache_salt", fmt::format("'cache_salt' has {} bytes; at most {}",
                                                        salt.size(), kSaltBytesMax)));
  }
  params.cache_salt = tenant_salt + salt;
}

// Refuses a field that would change the answer and is not there, unless it has a harmless value.
void refuse_field(Fields& fields, const char* name, std::string_view what) {
  const Json* found = fields.value(name);
  if (found == nullptr || (found->is_boolean() && !found->get<bool>()) ||
      (found->is_structured() && found->empty()) ||
      (found->is_string() && found->get_ref<const std::string&>().empty()))
    return;
  fields.fail(not_supported(fields.path_of(name), fmt::format("'{}' {}", name, what)));
}

constexpr std::string_view kNotYet = "is not supported by this version of quipu";

void refuse_what_is_missing(Fields& fields) {
  refuse_fields(fields, {"functions", "function_call", "audio", "prediction", "web_search_options",
                         "chat_template", "continue_final_message", "use_beam_search",
                         "prompt_logprobs", "kv_transfer_params", "lora"});
  if (const Json* modalities = fields.value("modalities");
      modalities != nullptr && *modalities != Json::array({"text"}))
    fields.fail(not_supported("modalities", "'modalities' other than [\"text\"] is not supported"));
}

void read_openai_common(Fields& fields, const ServedModel& model, const std::string& tenant_salt,
                        GenerationSpec& spec) {
  spec.params.sampling.temperature = 1;  // OpenAI's defaults, not llama.cpp's
  read_common(fields, model, tenant_salt, spec);
  spec.choices = static_cast<int>(fields.integer("n", 1, kChoicesMax).value_or(1));
  if (const Json* options = fields.value("stream_options")) {
    if (options->is_object()) {
      Fields inner(*options, "stream_options");
      spec.include_usage = inner.boolean("include_usage").value_or(false);
      if (inner.error().has_value()) fields.fail(*inner.error());
    } else {
      fields.fail(bad_parameter(
          "stream_options", "'stream_options' is " + json_kind(*options) + "; expected an object"));
    }
  }
  spec.answer = read_answer_format(fields);
  refuse_what_is_missing(fields);
}

// A prompt: text, or token ids.
ApiResult<Prompt> read_prompt(const Json& given, const ServedModel& model) {
  Prompt prompt;
  if (given.is_string()) {
    prompt.text = given.get<std::string>();
    ApiResult<std::vector<TokenId>> ids =
        model.encode(prompt.text, {.add_special = true, .parse_special = true});
    if (auto* error = std::get_if<ApiError>(&ids)) return std::move(*error);
    prompt.tokens = std::move(std::get<std::vector<TokenId>>(ids));
    return prompt;
  }
  for (const Json& id : given) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      return bad_parameter("prompt", "'prompt' has an element that is not a token id");
    prompt.tokens.push_back(id.get<TokenId>());
  }
  return prompt;
}

// "text", [1, 2], ["text", ...] or [[1, 2], ...].
std::optional<ApiError> read_prompts(const Json& body, const ServedModel& model,
                                     std::vector<Prompt>& prompts) {
  const auto found = body.find("prompt");
  if (found == body.end() || (!found->is_string() && !found->is_array()) || found->empty()) {
    return bad_parameter("prompt",
                         "'prompt' is missing or empty; expected a string, an array of token ids, "
                         "or an array of those",
                         "missing_required_parameter");
  }
  std::vector<const Json*> given;
  if (found->is_array() && !found->front().is_number()) {
    if (found->size() > kPromptsMax)
      return bad_parameter(
          "prompt", fmt::format("'prompt' has {} prompts; at most {}", found->size(), kPromptsMax));
    for (const Json& one : *found) {
      if (!one.is_string() && !one.is_array())
        return bad_parameter("prompt",
                             fmt::format("'prompt' has {} among its prompts", json_kind(one)),
                             "invalid_type");
      given.push_back(&one);
    }
  } else {
    given.push_back(&*found);
  }
  for (const Json* one : given) {
    ApiResult<Prompt> prompt = read_prompt(*one, model);
    if (auto* error = std::get_if<ApiError>(&prompt)) return std::move(*error);
    if (std::optional<ApiError> error =
            model.check_prompt(std::get<Prompt>(prompt).tokens, "prompt"))
      return error;
    prompts.push_back(std::move(std::get<Prompt>(prompt)));
  }
  return std::nullopt;
}

}  // namespace

// The text of a member; empty when it is absent, is not text, or `json` is no object.
std::string string_member(const Json& json, const char* name) {
  const auto found = json.is_object() ? json.find(name) : json.end();
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

void read_common(Fields& fields, const ServedModel& model, const std::string& tenant_salt,
                 GenerationSpec& spec) {
  read_sampling(fields, model, spec.params);
  read_salt(fields, tenant_salt, spec.params);
  spec.tenant = tenant_salt;
  spec.priority = static_cast<int>(fields.integer("priority", -1'000'000, 1'000'000).value_or(0));
  spec.timeout_ms = fields.integer("timeout_ms", 1, kTimeoutMsMax);
  spec.stream = fields.boolean("stream").value_or(false);
  if (std::optional<ApiError> error = model.check_name(fields.text("model")))
    fields.fail(std::move(*error));
}

namespace {

// The arguments of tools whose calls have tags.
std::optional<ApiError> read_arguments(std::vector<ToolChoice>& tools, OutputLayout& layout) {
  for (ToolChoice& tool : tools) {
    Result<std::vector<TaggedArgument>> arguments = tagged_arguments(tool.schema, tool.place);
    if (!arguments.ok()) return constraint_error(arguments.status(), "tools");
    tool.arguments = std::move(*arguments);
    for (const TaggedArgument& argument : tool.arguments) {
      if (argument.is_text) layout.text_arguments[tool.name].insert(argument.name);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> constrain_output(const ServedModel& model, GenerationSpec& spec) {
  const ToolFormat& format = model.tool_format();
  const bool must_call = spec.tools.use == ToolRequest::Use::kRequired;
  const bool calls_or_answer =
      spec.answer.source.has_value() && spec.tools.may_call() && !must_call;
  if (calls_or_answer && !can_tell_apart(*spec.answer.source, format)) {
    return not_supported(
        spec.answer.param,
        fmt::format("'{}' together with tools that may be called: this model's calls and such an "
                    "answer cannot be told apart from their beginnings; ask for one of them",
                    spec.answer.param));
  }
  OutputRules rules{.answer = spec.answer.source,
                    .tools = {},
                    .must_call = must_call,
                    .many_calls = spec.tools.parallel,
                    .thinking = spec.thinking,
                    .thinking_open = spec.thinking_open};
  if (spec.tools.may_call()) rules.tools = spec.tools.choices;
  OutputLayout layout;
  if (format.tags.has_value()) {
    if (std::optional<ApiError> error = read_arguments(rules.tools, layout)) return error;
  }
  const std::optional<ConstraintSource> source = output_structure(rules, format);
  if (source.has_value()) {
    Result<std::shared_ptr<const Constraint>> constraint = model.constrain(spec.tenant, *source);
    if (!constraint.ok()) {
      const bool is_of_tools =
          spec.tools.may_call() &&
          (!calls_or_answer || constraint.status().message().starts_with("tools"));
      return constraint_error(constraint.status(), is_of_tools ? "tools" : spec.answer.param);
    }
    spec.params.constraint = std::move(*constraint);
  }
  if (spec.thinking.has_value() && spec.show_thinking) {
    layout.thinking = spec.thinking;
    layout.thinking_open = spec.thinking_open;
  }
  if (spec.tools.may_call()) layout.calls = format;
  layout.calls_alone = calls_or_answer;
  if (layout.thinking.has_value() || layout.calls.has_value()) spec.params.layout = layout;
  return std::nullopt;
}

void read_reasoning_format(Fields& fields, GenerationSpec& spec) {
  const std::string name = fields.text("reasoning_format").value_or("auto");
  if (name != "auto" && name != "deepseek" && name != "none") {
    fields.fail(bad_parameter(
        "reasoning_format",
        fmt::format("'reasoning_format' is '{}'; expected 'auto', 'deepseek' or 'none'", name)));
  }
  spec.show_thinking = name != "none";
}

void refuse_fields(Fields& fields, std::initializer_list<const char*> names) {
  for (const char* name : names) refuse_field(fields, name, kNotYet);
}

void read_sampling(Fields& fields, const ServedModel& model, GenerationParams& params) {
  SamplingParams& sampling = params.sampling;
  const auto read = [&](const char* name, double low, double high, float& into) {
    if (const auto value = fields.number(name, low, high)) into = static_cast<float>(*value);
  };
  read("temperature", 0, 100, sampling.temperature);
  read("top_p", 0, 1, sampling.top_p);
  read("min_p", 0, 1, sampling.min_p);
  read("repetition_penalty", 0.01, 100, sampling.repetition_penalty);  // vLLM's name
  read("repeat_penalty", 0.01, 100, sampling.repetition_penalty);      // llama.cpp's
  read("presence_penalty", -100, 100, sampling.presence_penalty);
  read("frequency_penalty", -100, 100, sampling.frequency_penalty);
  // -1 means all to vLLM and llama.cpp.
  if (const auto value = fields.integer("top_k", -1, INT32_MAX))
    sampling.top_k = static_cast<int>(std::max<int64_t>(*value, 0));
  const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  sampling.seed = seed.has_value() && *seed != -1 ? static_cast<uint64_t>(*seed) : new_seed();
  params.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  read_logit_bias(fields, model, params);
  read_stops(fields, params);
}

ApiResult<GenerationSpec> read_chat_request(const Json& body, const ServedModel& model,
                                            const std::string& tenant_salt) {
  GenerationSpec spec;
  Fields fields(body);
  read_openai_common(fields, model, tenant_salt, spec);
  const auto newer = fields.integer("max_completion_tokens", 0, kNoTokenLimit);
  const auto older = fields.integer("max_tokens", 0, kNoTokenLimit);
  spec.params.max_tokens = newer.value_or(older.value_or(kNoTokenLimit));
  const auto top = fields.integer("top_logprobs", 0, kTopLogprobsMax);
  if (fields.boolean("logprobs").value_or(false)) {
    spec.params.top_logprobs = static_cast<int>(top.value_or(0));
  } else if (top.value_or(0) > 0) {
    fields.fail(bad_parameter("top_logprobs", "'top_logprobs' needs 'logprobs': true"));
  }
  spec.tools = read_tools(fields, ToolDialect::kChat);
  read_reasoning_format(fields, spec);
  if (fields.error().has_value()) return *fields.error();

  if (std::optional<ApiError> error = read_conversation(body, model, spec))
    return std::move(*error);
  if (std::optional<ApiError> error = constrain_output(model, spec)) return std::move(*error);
  return spec;
}

ApiResult<GenerationSpec> read_completion_request(const Json& body, const ServedModel& model,
                                                  const std::string& tenant_salt) {
  GenerationSpec spec;
  Fields fields(body);
  read_openai_common(fields, model, tenant_salt, spec);
  spec.params.max_tokens = fields.integer("max_tokens", 0, kNoTokenLimit).value_or(16);  // OpenAI's
  if (const auto top = fields.integer("logprobs", 0, kTopLogprobsMax))
    spec.params.top_logprobs = static_cast<int>(*top);
  spec.echo = fields.boolean("echo").value_or(false);
  if (spec.echo && spec.params.top_logprobs.has_value())
    fields.fail(not_supported("echo", "'echo' with 'logprobs' is not supported"));
  refuse_field(fields, "suffix", kNotYet);
  refuse_field(fields, "tools", "needs a conversation: use /v1/chat/completions");
  if (const auto best = fields.integer("best_of", 1, kChoicesMax); best.value_or(1) > spec.choices)
    fields.fail(not_supported("best_of", "'best_of' above 'n' is not supported"));
  if (fields.error().has_value()) return *fields.error();
  if (std::optional<ApiError> error = read_prompts(body, model, spec.prompts))
    return std::move(*error);
  for (Prompt& prompt : spec.prompts) {
    if (spec.echo && prompt.text.empty()) prompt.text = model.tokenizer().decode(prompt.tokens);
  }
  if (std::optional<ApiError> error = constrain_output(model, spec)) return std::move(*error);
  return spec;
}

ApiResult<GenerationSpec> read_llama_request(const Json& body, const ServedModel& model,
                                             const std::string& tenant_salt) {
  GenerationSpec spec;
  Fields fields(body);
  spec.params.sampling = usual_sampling();  // llama.cpp's defaults, which are those of `quipu run`
  read_common(fields, model, tenant_salt, spec);
  if (!fields.boolean("cache_prompt").value_or(true))
    spec.params.cache_salt += fmt::format("\nno-reuse-{:016x}", new_seed());
  const char* limit = fields.value("n_predict") != nullptr ? "n_predict" : "max_tokens";
  const int64_t tokens = fields.integer(limit, -1, kNoTokenLimit).value_or(-1);
  spec.params.max_tokens = tokens < 0 ? kNoTokenLimit : tokens;
  if (const auto top = fields.integer("n_probs", 0, kTopLogprobsMax); top.value_or(0) > 0)
    spec.params.top_logprobs = static_cast<int>(*top);
  spec.return_tokens = fields.boolean("return_tokens").value_or(false);
  spec.params.report_progress = fields.boolean("return_progress").value_or(false) && spec.stream;
  spec.answer = read_answer_format(fields);
  refuse_fields(fields, {"lora", "image_data", "post_sampling_probs"});
  // Samplers that quipu does not have, unless they are off.
  const std::pair<const char*, double> neutral[] = {{"typical_p", 1},      {"mirostat", 0},
                                                    {"dry_multiplier", 0}, {"xtc_probability", 0},
                                                    {"dynatemp_range", 0}, {"top_n_sigma", -1}};
  for (const auto& [name, off] : neutral) {
    const auto value = fields.number(name, -1e9, 1e9);
    if (value.has_value() && *value != off && !(*value <= 0 && off <= 0))
      fields.fail(not_supported(name, fmt::format("'{}' other than {} {}", name, off, kNotYet)));
  }
  if (fields.error().has_value()) return *fields.error();
  if (std::optional<ApiError> error = read_prompts(body, model, spec.prompts))
    return std::move(*error);
  if (spec.prompts.size() != 1) {
    return not_supported("prompt", "several prompts in one request: use /v1/completions for that");
  }
  if (std::optional<ApiError> error = constrain_output(model, spec)) return std::move(*error);
  return spec;
}

}  // namespace quipu
