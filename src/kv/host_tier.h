// HostTier: blocks in host memory in compact form (kv/block_codec.h), below the working pool.
//
// Bounded in bytes, bookkeeping included; the block that was stored or loaded longest ago goes
// first. A loaded block stays, so that evicting it from the pool again costs nothing.
// Invariant: stats().bytes <= capacity_bytes(). THREADS: engine thread only.
#pragma once

#include <list>
#include <unordered_map>

#include "kv/block_codec.h"
#include "kv/tier.h"

namespace quipu {

class HostTier : public KvTier {
 public:
  explicit HostTier(uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  std::string_view name() const override { return "host"; }
  uint64_t capacity_bytes() const override { return capacity_bytes_; }
  int lookup(std::span<const TierKey> keys, std::span<uint8_t> found) const override;
  bool store(const TierKey& key, std::span<const std::byte> bytes, int element_bytes) override;
  void load(TransferId transfer, const TierKey& key, std::span<std::byte> into) override;
  void poll(std::vector<TierCompletion>& ended) override;
  void remove(const TierKey& key) override;
  TierStats stats() const override { return stats_; }

 private:
  friend class HostTierPeer;  // tests damage what is kept

  struct Entry {
    TierKey key;
    CompactBlock block;
  };
  using Entries = std::list<Entry>;

  static uint64_t entry_bytes(const Entry& entry);
  void drop(Entries::iterator entry);

  uint64_t capacity_bytes_;
  Entries entries_;  // the one used longest ago first
  std::unordered_map<TierKey, Entries::iterator, TierKeyHash> by_key_;
  std::vector<TierCompletion> ended_;
  TierStats stats_;
};

}  // namespace quipu
