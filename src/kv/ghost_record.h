// GhostRecord: which blocks the index let go of lately, and why. It tells "evicted" from "never
// seen", and lets a policy learn from what it evicted too early.
//
// A ring of fixed size: the newest entry takes the place of the oldest. Keys are the first 64 bits
// of a block's key; a chance equality costs a wrong word in an explanation, never a wrong block.
// THREADS: engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace quipu {

enum class GoneReason : uint8_t {
  kEvicted,  // there was no room
  kExpired,  // its time to live was over
  kCleared,  // the cache was emptied
};

struct Ghost {
  uint64_t key = 0;
  int64_t last_use_ns = 0;
  int32_t hits = 0;
  uint8_t queue = 0;  // of the eviction policy
  GoneReason reason = GoneReason::kEvicted;
};

class GhostRecord {
 public:
  explicit GhostRecord(size_t capacity) : ring_(capacity) {}

  void add(Ghost ghost);
  const Ghost* find(uint64_t key) const;  // null when unknown; valid until the next add()
  void remove(uint64_t key);
  size_t size() const { return by_key_.size(); }
  size_t bytes() const;  // UNITS: bytes

 private:
  std::vector<Ghost> ring_;
  size_t next_ = 0;
  std::unordered_map<uint64_t, uint32_t> by_key_;  // key -> place in the ring
};

}  // namespace quipu
