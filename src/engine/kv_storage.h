// KvStorage: the bytes behind the block pool, and how a kernel sees them.
// OWNS: the memory, reserved once and never moved. THREADS: engine thread only.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "base/status.h"
#include "kv/cache_spec.h"

namespace quipu {

class KvStorage {
 public:
  // ERRORS: kResourceExhausted when the memory cannot be reserved.
  static Result<KvStorage> create(Backend& backend, KvCacheSpec spec, int blocks);

  const KvCacheSpec& spec() const { return spec_; }
  int blocks() const { return blocks_; }
  size_t bytes() const { return spec_.block_bytes * static_cast<size_t>(blocks_); }
  PagedKvView view() const;

 private:
  KvStorage(KvCacheSpec spec, int blocks, std::unique_ptr<DeviceBuffer> memory)
      : spec_(std::move(spec)), blocks_(blocks), memory_(std::move(memory)) {}

  KvCacheSpec spec_;
  int blocks_;
  std::unique_ptr<DeviceBuffer> memory_;
};

}  // namespace quipu
