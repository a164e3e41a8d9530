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
  std::optional<TierStats> tier;
  uint64_t tier_capacity_bytes = 0;
  // Smoothed measurements of the cost model.
  std::optional<double> restore_ns_per_byte, recompute_ns_per_token;
};

}  // namespace quipu
