// Counters of everything the engine and its cache did since the start, and what is where now.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "kv/cache_spec.h"

namespace quipu {

// What went between the pools and the tier. UNITS: bytes of the pool's form, ns.
struct TransferStatistics {
  uint64_t bytes_stored = 0, bytes_restored = 0;
  int64_t store_ns = 0, restore_ns = 0;
};

// Where the time of steps went. UNITS: ns since the start.
struct StepPhases {
  int64_t plan_ns = 0;      // scheduling, and finding what is cached
  int64_t transfer_ns = 0;  // copies of blocks, and moves between the pools and the tier
  int64_t forward_ns = 0;   // building the batch, the model, and its encoder
  int64_t sample_ns = 0;    // from logits to tokens
  int64_t commit_ns = 0;    // publishing blocks, ending requests
};

struct KvGroupStatistics {
  KvLifetime lifetime;
  uint64_t block_bytes = 0;  // UNITS: bytes
  KvBlockStates blocks;      // UNITS: blocks
};

struct EngineStatistics {
  KvCounters cache;
  SchedulerCounters scheduler;
  std::string policy;                     // of eviction
  std::vector<KvGroupStatistics> groups;  // SHAPE: [stream groups]
  uint64_t index_bytes = 0;               // UNITS: bytes of bookkeeping
  uint64_t indexed_bytes = 0;             // UNITS: bytes of the blocks in the index
  TransferStatistics transfers;
  StepPhases phases;
  int64_t steps = 0;  // that computed something
  std::optional<TierStats> tier;
  uint64_t tier_capacity_bytes = 0;
  // Smoothed measurements of the cost model.
  std::optional<double> restore_ns_per_byte, recompute_ns_per_token;
};

}  // namespace quipu
