// GhostRecord: which blocks the index let go of lately, and why. It tells "evicted" from "never
// seen", and lets a policy learn from what it evicted too early.
//
// A table of fixed size in sets of four, one cache line each; a new entry takes the place of the
// oldest of its set. Entries are found by 64 bits of a block's key, of which the set number and 32
// more are compared: a chance equality costs a wrong word in an explanation, never a wrong block.
// THREADS: engine thread only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace quipu {

enum class GoneReason : uint8_t {
  kEvicted,  // there was no room
  kExpired,  // its time to live was over
  kCleared,  // the cache was emptied
};

struct Ghost {
  int64_t last_use_ns = 0;  // to 67 ms
  int32_t hits = 0;         // up to 65535
  uint8_t queue = 0;        // of the eviction policy
  GoneReason reason = GoneReason::kEvicted;
};

class GhostRecord {
 public:
  // UNITS: entries, rounded up to a power of two.
  explicit GhostRecord(size_t capacity);

  void add(uint64_t key, const Ghost& ghost);
  std::optional<Ghost> find(uint64_t key) const;
  void remove(uint64_t key);
  // Starts to fetch what the next call about `key` reads: the table is larger than a cache.
  void prefetch(uint64_t key) const { __builtin_prefetch(&set_of(key)); }
  size_t bytes() const { return sets_.capacity() * sizeof(Set); }  // UNITS: bytes

 private:
  struct Entry {
    uint32_t tag = 0;   // of the key
    uint32_t time = 0;  // of the last use, in kTimeNs
    uint32_t age = 0;   // of the entry: adds_ when it was made; 0: empty
    uint16_t hits = 0;
    uint8_t queue = 0;
    GoneReason reason = GoneReason::kEvicted;
  };
  struct alignas(64) Set {
    std::array<Entry, 4> entries;
  };
  static_assert(sizeof(Set) == 64);
  static constexpr int64_t kTimeNs = 1 << 26;

  const Set& set_of(uint64_t key) const { return sets_[key & (sets_.size() - 1)]; }
  Set& set_of(uint64_t key) { return sets_[key & (sets_.size() - 1)]; }
  static uint32_t tag_of(uint64_t key) { return static_cast<uint32_t>(key >> 32); }

  std::vector<Set> sets_;
  uint32_t adds_ = 0;
};

}  // namespace quipu
