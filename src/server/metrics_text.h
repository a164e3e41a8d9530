// The text form of the metrics, for Prometheus. Names follow vLLM's after the prefix `quipu_`.
// SOURCE: Prometheus text exposition format, version 0.0.4.
#pragma once

#include <string>

#include "app/engine_thread.h"
#include "text/constraint_cache.h"

namespace quipu {

inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// THREADS: the engine thread's, with its snapshot.
std::string metrics_text(const EngineSnapshot& snapshot, const ConstraintCacheCounters& constraints,
                         const std::string& model_name);

}  // namespace quipu
