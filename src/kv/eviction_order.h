// EvictionOrder: the evictable nodes of an index (or of one windowed group of it), and which of
// them goes first: the lowest rank, and in a rank what the policy finds least worth keeping.
//
// One ordered queue per class of the policy; only their ends are compared, and what a queue has to
// offer is remembered until the queue, the policy or the time changes: victims are mostly asked for
// many at a time.
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "kv/eviction_policy.h"

namespace quipu {

class EvictionOrder {
 public:
  // Where a node waits. Fixed while it is in the order.
  struct Place {
    int64_t rank = 0;  // goes by this first
    double worth = 0;
    int32_t node = 0;
    int32_t queue = 0;
  };

  explicit EvictionOrder(std::unique_ptr<EvictionPolicy> policy);

  EvictionPolicy& policy() { return *policy_; }
  const EvictionPolicy& policy() const { return *policy_; }

  void insert(const Place& place);
  // REQUIRES: it is there.
  void erase(const Place& place);
  bool contains(const Place& place) const;
  size_t size() const { return size_; }
  size_t bytes() const;  // UNITS: bytes

  // The node to go first, but for `keep`; nothing when there is none.
  std::optional<Place> least(int64_t now_ns, std::optional<int32_t> keep);

 private:
  using Key = std::tuple<int64_t, double, int32_t>;  // rank, worth, node
  // What goes first: the least rank, then the least worth now.
  struct Offer {
    Place place;
    double worth_now = 0;
  };
  struct Queue {
    std::set<Key> nodes;
    std::optional<Offer> offer;  // valid where !is_stale
    bool is_stale = true;
  };

  static Key key_of(const Place& place) { return {place.rank, place.worth, place.node}; }
  static bool goes_before(const Offer& a, const Offer& b);
  std::optional<Offer> offer_of(int32_t queue, int64_t now_ns, std::optional<int32_t> keep) const;

  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<Queue> queues_;
  int64_t offers_ns_ = 0, offers_version_ = -1;  // what the offers were made for
  size_t size_ = 0;
};

}  // namespace quipu
