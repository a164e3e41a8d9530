// KvStorage: the bytes behind the block pools, one run of memory per stream group, and how a kernel
// sees them. OWNS: the memory, reserved once and never moved. THREADS: engine thread only.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/status.h"
#include "kv/cache_spec.h"

namespace quipu {

class KvStorage {
 public:
  // SHAPE: blocks: [groups of the spec]. ERRORS: kResourceExhausted when the memory cannot be
  // reserved.
  static Result<KvStorage> create(Backend& backend, KvCacheSpec spec,
                                  std::span<const int64_t> blocks);

  const KvCacheSpec& spec() const { return spec_; }
  // UNITS: blocks, of one group and of all.
  int blocks(int group) const { return pools_[static_cast<size_t>(group)].blocks; }
  int blocks() const;
  size_t bytes() const;
  // The bytes of a block, and of one of its elements (1 for packed codes). For tiers: the memory must
  // be the host's, as the CPU backend's is.
  std::span<std::byte> block(int group, BlockId block) const;
  int element_bytes(int group) const;
  KvCacheView view() const { return {.groups = views_, .layers = spec_.layers}; }

 private:
  struct Pool {
    int blocks = 0;
    std::unique_ptr<DeviceBuffer> memory;
  };

  KvStorage() = default;

  KvCacheSpec spec_;
  std::vector<Pool> pools_;
  std::vector<KvGroupView> views_;  // point into spec_ and pools_
};

}  // namespace quipu
