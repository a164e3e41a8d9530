#include "kv/ghost_record.h"

namespace quipu {

void GhostRecord::add(Ghost ghost) {
  if (ring_.empty()) return;
  const auto [known, is_new] = by_key_.try_emplace(ghost.key, static_cast<uint32_t>(next_));
  if (!is_new) {  // gone again: it is remembered where it stands
    ring_[known->second] = ghost;
    return;
  }
  Ghost& place = ring_[next_];
  if (const auto old = by_key_.find(place.key);
      old != by_key_.end() && old->second == next_ && place.key != ghost.key) {
    by_key_.erase(old);
  }
  place = ghost;
  next_ = (next_ + 1) % ring_.size();
}

const Ghost* GhostRecord::find(uint64_t key) const {
  const auto known = by_key_.find(key);
  return known == by_key_.end() ? nullptr : &ring_[known->second];
}

void GhostRecord::remove(uint64_t key) { by_key_.erase(key); }

size_t GhostRecord::bytes() const {
  return ring_.capacity() * sizeof(Ghost) + by_key_.size() * 4 * sizeof(void*) +
         by_key_.bucket_count() * sizeof(void*);
}

}  // namespace quipu
