#include "kv/host_tier.h"

#include <cstring>

namespace quipu {

size_t TierKeyHash::operator()(const TierKey& key) const noexcept {
  size_t hash;  // the key is a hash already
  std::memcpy(&hash, key.block.bytes.data(), sizeof hash);
  return hash ^ (static_cast<size_t>(key.group) * 0x9E3779B97F4A7C15ull);
}

int HostTier::lookup(std::span<const TierKey> keys, std::span<uint8_t> found) const {
  int count = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    found[i] = by_key_.contains(keys[i]) ? 1 : 0;
    count += found[i];
  }
  return count;
}

// A list node, a map node and its share of the buckets, beside the payload.
uint64_t HostTier::entry_bytes(const Entry& entry) {
  constexpr uint64_t kBookkeeping =
      sizeof(Entry) + 2 * sizeof(void*) + sizeof(TierKey) + 5 * sizeof(void*);
  return kBookkeeping + entry.block.bytes.capacity();
}

void HostTier::drop(Entries::iterator entry) {
  stats_.bytes -= entry_bytes(*entry);
  stats_.raw_bytes -= entry->block.raw_bytes;
  --stats_.blocks;
  by_key_.erase(entry->key);
  entries_.erase(entry);
}

bool HostTier::store(const TierKey& key, std::span<const std::byte> bytes, int element_bytes) {
  if (const auto known = by_key_.find(key); known != by_key_.end()) {
    entries_.splice(entries_.end(), entries_, known->second);
    ++stats_.stores_known;
    return true;
  }
  entries_.push_back({key, compact_block(bytes, element_bytes)});
  const auto entry = std::prev(entries_.end());
  if (entry_bytes(*entry) > capacity_bytes_) {
    entries_.erase(entry);
    ++stats_.stores_refused;
    return false;
  }
  by_key_.emplace(key, entry);
  stats_.bytes += entry_bytes(*entry);
  stats_.raw_bytes += entry->block.raw_bytes;
  ++stats_.blocks;
  ++stats_.stores;
  while (stats_.bytes > capacity_bytes_) {
    drop(entries_.begin());
    ++stats_.evictions;
  }
  return true;
}

void HostTier::load(TransferId transfer, const TierKey& key, std::span<std::byte> into) {
  const auto known = by_key_.find(key);
  if (known == by_key_.end()) {
    ++stats_.loads_missing;
    ended_.push_back({transfer, TierOutcome::kMissing});
    return;
  }
  const CompactBlock& block = known->second->block;
  if (block.raw_bytes != into.size() || !expand_block(block, into)) {
    ++stats_.loads_corrupt;
    drop(known->second);
    ended_.push_back({transfer, TierOutcome::kCorrupt});
    return;
  }
  entries_.splice(entries_.end(), entries_, known->second);
  ++stats_.loads;
  ended_.push_back({transfer, TierOutcome::kDone});
}

void HostTier::poll(std::vector<TierCompletion>& ended) {
  ended.insert(ended.end(), ended_.begin(), ended_.end());
  ended_.clear();
}

void HostTier::remove(const TierKey& key) {
  if (const auto known = by_key_.find(key); known != by_key_.end()) drop(known->second);
}

}  // namespace quipu
