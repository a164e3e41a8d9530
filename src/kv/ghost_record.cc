#include "kv/ghost_record.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace quipu {

GhostRecord::GhostRecord(size_t capacity)
    : sets_(std::bit_ceil(std::max<size_t>(1, capacity / 4))) {}

void GhostRecord::add(uint64_t key, const Ghost& ghost) {
  Set& set = set_of(key);
  const uint32_t tag = tag_of(key);
  auto place = std::ranges::find_if(
      set.entries, [&](const Entry& entry) { return entry.age != 0 && entry.tag == tag; });
  if (place == set.entries.end()) place = std::ranges::min_element(set.entries, {}, &Entry::age);
  if (++adds_ == 0) adds_ = 1;  // after four billion: some entries seem young, no more
  *place = {.tag = tag,
            .time = static_cast<uint32_t>(ghost.last_use_ns / kTimeNs),
            .age = adds_,
            .hits = static_cast<uint16_t>(
                std::min<int32_t>(ghost.hits, std::numeric_limits<uint16_t>::max())),
            .queue = ghost.queue,
            .reason = ghost.reason};
}

std::optional<Ghost> GhostRecord::find(uint64_t key) const {
  for (const Entry& entry : set_of(key).entries) {
    if (entry.age == 0 || entry.tag != tag_of(key)) continue;
    return Ghost{.last_use_ns = int64_t{entry.time} * kTimeNs,
                 .hits = entry.hits,
                 .queue = entry.queue,
                 .reason = entry.reason};
  }
  return std::nullopt;
}

void GhostRecord::remove(uint64_t key) {
  for (Entry& entry : set_of(key).entries) {
    if (entry.age != 0 && entry.tag == tag_of(key)) entry = Entry();
  }
}

}  // namespace quipu
