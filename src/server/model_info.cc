#include "server/model_info.h"

#include "base/utf8.h"

namespace quipu {

Json model_to_json(const ServedModel& model, const std::string& name) {
  const ModelConfig& config = model.model().model->config();
  return {{"id", name},
          {"object", "model"},
          {"created", model.created_s()},
          {"owned_by", "quipu"},
          {"max_model_len", model.token_limit()},
          {"meta",
           {{"architecture", config.architecture},
            {"n_vocab", config.vocab_size},
            {"n_ctx_train", config.context_length},
            {"n_embd", config.embedding_length},
            {"weight_bytes", model.model().model->weight_bytes()}}}};
}

Json models_to_json(const ServedModel& model) {
  Json list = Json::array();
  for (const std::string& name : model.names()) list.push_back(model_to_json(model, name));
  return {{"object", "list"}, {"data", std::move(list)}};
}

Json props_to_json(const ServedModel& model) {
  const SpecialTokenTexts& texts = model.tokenizer().special_texts();
  return {{"default_generation_settings",
           {{"n_ctx", model.token_limit()},
            {"params",
             {{"temperature", 0.8},
              {"top_k", 40},
              {"top_p", 0.95},
              {"min_p", 0.05},
              {"repeat_penalty", 1.0},
              {"presence_penalty", 0.0},
              {"frequency_penalty", 0.0},
              {"n_predict", -1}}}}},
          {"total_slots", model.parallel()},
          {"model_alias", model.name()},
          {"chat_template", model.tokenizer().chat_template()},
          {"bos_token", texts.bos},
          {"eos_token", texts.eos},
          {"modalities", {{"vision", false}, {"audio", false}}},
          {"build_info", std::string("quipu ") + QUIPU_VERSION}};
}

Json slots_to_json(const ServedModel& model, const EngineSnapshot& snapshot, const Caller& caller) {
  Json slots = Json::array();
  const auto add_free = [&] {
    slots.push_back(
        {{"id", slots.size()}, {"n_ctx", model.token_limit()}, {"is_processing", false}});
  };
  if (caller.is_operator()) {
    for (int place = 0; place < model.parallel(); ++place) add_free();
  }
  for (const EngineSnapshot::Task& task : snapshot.running) {
    if (!caller.sees(task.tenant)) continue;
    if (!caller.is_operator()) add_free();
    Json& slot = caller.is_operator() ? slots[static_cast<size_t>(task.place)] : slots.back();
    slot["is_processing"] = true;
    // Numbers of requests count those of all tenants.
    if (caller.is_operator()) slot["id_task"] = task.id.value();
    slot["n_prompt_tokens"] = task.prompt_tokens;
    slot["n_prompt_tokens_processed"] = std::min(task.computed_tokens, task.prompt_tokens);
    slot["n_decoded"] = task.output_tokens;
  }
  return slots;
}

ApiResult<Json> tokenize_json(const Json& body, const ServedModel& model) {
  Fields fields(body);
  const std::optional<std::string> content = fields.text("content");
  const bool add_special = fields.boolean("add_special").value_or(false);
  const bool parse_special = fields.boolean("parse_special").value_or(true);
  const bool with_pieces = fields.boolean("with_pieces").value_or(false);
  if (fields.error().has_value()) return *fields.error();
  if (!content.has_value())
    return bad_parameter("content", "'content' is missing", "missing_required_parameter");
  ApiResult<std::vector<TokenId>> encoded =
      model.encode(*content, {.add_special = add_special, .parse_special = parse_special});
  if (auto* error = std::get_if<ApiError>(&encoded)) return std::move(*error);
  const std::vector<TokenId>& ids = std::get<std::vector<TokenId>>(encoded);
  if (!with_pieces) return Json{{"tokens", ids}};
  Json tokens = Json::array();
  for (const TokenId id : ids) {
    const std::string piece(model.tokenizer().piece(id));
    Json shown = piece;
    if (!is_valid_utf8(piece)) {  // part of a character: its bytes, as llama.cpp gives them
      shown = Json::array();
      for (const char c : piece) shown.push_back(static_cast<unsigned char>(c));
    }
    tokens.push_back({{"id", id}, {"piece", std::move(shown)}});
  }
  return Json{{"tokens", std::move(tokens)}};
}

ApiResult<Json> detokenize_json(const Json& body, const ServedModel& model) {
  const auto tokens = body.find("tokens");
  if (tokens == body.end() || !tokens->is_array())
    return bad_parameter("tokens", "'tokens' is missing; expected an array of token ids",
                         "missing_required_parameter");
  std::vector<TokenId> ids;
  for (const Json& id : *tokens) {
    if (!id.is_number_integer() || id < 0 || id >= model.vocab_size()) {
      return bad_parameter("tokens", fmt::format("'tokens' has an element that is not a token id "
                                                 "below {}",
                                                 model.vocab_size()));
    }
    ids.push_back(id.get<TokenId>());
  }
  return Json{{"content", model.tokenizer().decode(ids, {.skip_special = false})}};
}

}  // namespace quipu
