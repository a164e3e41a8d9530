// How a generation's outcome is told: as JSON for tools, as a short table for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/chat.h"
#include "app/generation.h"
#include "cli/console.h"

namespace quipu {

// {"text", "token_ids", "finish_reason", "usage", "timings", "kv", "logits_hash", "seed"}.
nlohmann::ordered_json generation_to_json(const LoadedModel& model, const GenerationResult& result,
                                          uint64_t seed);

// Prompt, output, cache and seed on stderr. UNITS as printed.
void print_statistics(const OutputOptions& output, const LoadedModel& model,
                      const GenerationResult& result, uint64_t seed);

// "1,2,3".
std::string join_ids(const std::vector<TokenId>& ids);

// The messages rendered by the model's chat template and encoded. ERRORS: kUnsupported when the
// model has no template; the template's own.
Result<std::vector<TokenId>> encode_chat(const LoadedModel& model,
                                         const nlohmann::ordered_json& messages);

}  // namespace quipu
