// What the cache did, for people and as JSON: for one request, and since the start.
#pragma once

#include <nlohmann/json.hpp>

#include "app/assemble.h"
#include "app/generation.h"
#include "cli/console.h"

namespace quipu {

// {"reused", "shared", "tail", "copied", "from_tier", "waited_for", "reason", "position", "token",
//  "text", "before", "cached_text", "gone", "gone_s"}: fields that do not apply are left out.
nlohmann::ordered_json explanation_to_json(const LoadedModel& model,
                                           const GenerationResult& result);

// The same in sentences on stderr, also when quiet: it was asked for.
void print_explanation(const LoadedModel& model, const GenerationResult& result);

nlohmann::ordered_json statistics_to_json(const EngineStatistics& statistics);
void print_cache_statistics(const EngineStatistics& statistics);

}  // namespace quipu
