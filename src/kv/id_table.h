// IdTable: from a hash to the numbers of the things that have it, in open addressing; for maps
// whose keys are kept elsewhere. The caller compares: a hash finds candidates, no more. THREADS:
// thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/check.h"

namespace quipu {

class IdTable {
 public:
  // The first number with this hash of which `is_it(number)` holds.
  template <typename Predicate>
  std::optional<int32_t> find(uint32_t hash, Predicate&& is_it) const {
    if (slots_.empty()) return std::nullopt;
    for (size_t at = hash & mask();; at = (at + 1) & mask()) {
      const Slot& slot = slots_[at];
      if (slot.id < 0) return std::nullopt;
      if (slot.hash == hash && is_it(slot.id)) return slot.id;
    }
  }

  // REQUIRES: id >= 0.
  void insert(uint32_t hash, int32_t id) {
    if ((size_ + 1) * 2 > slots_.size()) grow();
    put({hash, id});
    ++size_;
  }

  // REQUIRES: it is there.
  void erase(uint32_t hash, int32_t id) {
    size_t at = place_of(hash, id);
    // What comes after moves up, unless it would then lie before its own place.
    for (size_t next = (at + 1) & mask(); slots_[next].id >= 0; next = (next + 1) & mask()) {
      const size_t home = slots_[next].hash & mask();
      if (((next - home) & mask()) < ((next - at) & mask())) continue;
      slots_[at] = slots_[next];
      at = next;
    }
    slots_[at] = Slot();
    --size_;
  }

  // Puts another number in the place of one with the same hash.
  void replace(uint32_t hash, int32_t id, int32_t by) { slots_[place_of(hash, id)].id = by; }

  size_t size() const { return size_; }
  size_t bytes() const { return slots_.capacity() * sizeof(Slot); }  // UNITS: bytes

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;  // -1: empty
  };

  size_t mask() const { return slots_.size() - 1; }

  void put(const Slot& slot) {
    size_t at = slot.hash & mask();
    while (slots_[at].id >= 0) at = (at + 1) & mask();
    slots_[at] = slot;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.id >= 0) put(slot);
    }
  }

  size_t place_of(uint32_t hash, int32_t id) const {
    QUIPU_CHECK(size_ > 0, "{} in an empty table", id);
    size_t at = hash & mask();
    while (slots_[at].id != id || slots_[at].hash != hash) {
      QUIPU_CHECK(slots_[at].id >= 0, "{} is not in the table", id);
      at = (at + 1) & mask();
    }
    return at;
  }

  std::vector<Slot> slots_;  // a power of two of them, at most half full
  size_t size_ = 0;
};

}  // namespace quipu
