// Transfers: what must move between the pools and the tier, decided by the cache in plan() and done
// by the engine before the step computes: first all stores, then the copies inside the pools, then
// the loads. In that order a block that was evicted in plan() is read before anything writes to it.
#pragma once

#include "kv/block_pool.h"
#include "kv/tier.h"

namespace quipu {

// An evicted block goes to the tier.
struct KvStore {
  int group = 0;
  BlockId block;
  TierKey key;
};

// A block comes back from the tier, into a block of the pool that is in flight until then.
struct KvLoad {
  int group = 0;
  BlockId block;
  TierKey key;
  TransferId transfer;
};

}  // namespace quipu
