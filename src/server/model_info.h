// What the server tells about its model, its engine and its tokenizer.
#pragma once

#include <string>

#include "server/access.h"
#include "server/json_body.h"
#include "server/metrics_text.h"
#include "server/served_model.h"

namespace quipu {

// OpenAI's list of models, and one of them.
Json models_to_json(const ServedModel& model);
Json model_to_json(const ServedModel& model, const std::string& name);

// llama.cpp's /props and /slots. A slot here is a place in the engine; it binds no memory. A tenant
// sees those that its own requests have, counted from 0.
Json props_to_json(const ServedModel& model);
Json slots_to_json(const ServedModel& model, const EngineSnapshot& snapshot, const Caller& caller);

// llama.cpp's /tokenize {"content", "add_special", "parse_special", "with_pieces"} and /detokenize
// {"tokens"}.
ApiResult<Json> tokenize_json(const Json& body, const ServedModel& model);
ApiResult<Json> detokenize_json(const Json& body, const ServedModel& model);

}  // namespace quipu
