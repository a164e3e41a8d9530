#include "kv/eviction_order.h"

#include <limits>

#include "base/check.h"

namespace quipu {

namespace {

// The first key from `begin` on, or the last one before `end`, that is not `keep`'s.
template <typename Iterator>
std::optional<Iterator> first_but(Iterator begin, Iterator end, std::optional<int32_t> keep) {
  while (begin != end && keep.has_value() && std::get<2>(*begin) == *keep) ++begin;
  return begin == end ? std::nullopt : std::optional(begin);
}

}  // namespace

EvictionOrder::EvictionOrder(std::unique_ptr<EvictionPolicy> policy) : policy_(std::move(policy)) {
  QUIPU_CHECK(policy_ != nullptr, "an order needs a policy");
  queues_.resize(static_cast<size_t>(policy_->num_queues()));
}

void EvictionOrder::insert(const Place& place) {
  queues_[static_cast<size_t>(place.queue)].insert(key_of(place));
  ++size_;
}

void EvictionOrder::erase(const Place& place) {
  const size_t erased = queues_[static_cast<size_t>(place.queue)].erase(key_of(place));
  QUIPU_CHECK(erased == 1, "node {} is not where it should wait", place.node);
  --size_;
}

bool EvictionOrder::contains(const Place& place) const {
  return queues_[static_cast<size_t>(place.queue)].contains(key_of(place));
}

size_t EvictionOrder::bytes() const { return size_ * (sizeof(Key) + 4 * sizeof(void*)); }

std::optional<EvictionOrder::Place> EvictionOrder::least(int64_t now_ns,
                                                         std::optional<int32_t> keep) const {
  std::optional<Place> best;
  double best_worth = 0;
  const auto consider = [&](const Key& key, int32_t queue) {
    const auto [rank, worth, node] = key;
    if (best.has_value() && rank > best->rank) return;
    const double now_worth = policy_->worth_now(queue, worth, now_ns);
    // Equals go by the time of their last use, then by number: nothing is left to chance.
    if (best.has_value() && rank == best->rank &&
        std::tie(now_worth, worth, node) >= std::tie(best_worth, best->worth, best->node))
      return;
    best = Place{rank, worth, node, queue};
    best_worth = now_worth;
  };
  for (int32_t q = 0; q < static_cast<int32_t>(queues_.size()); ++q) {
    const Queue& queue = queues_[static_cast<size_t>(q)];
    const auto first = first_but(queue.begin(), queue.end(), keep);
    if (!first.has_value()) continue;
    consider(**first, q);
    if (!policy_->considers_both_ends()) continue;
    // The last one of the same rank.
    const int64_t rank = std::get<0>(**first);
    auto end = queue.end();
    if (std::get<0>(*queue.rbegin()) != rank)
      end = queue.lower_bound(Key{rank + 1, -std::numeric_limits<double>::infinity(), 0});
    const auto last = first_but(std::make_reverse_iterator(end), queue.rend(), keep);
    consider(**last, q);
  }
  return best;
}

}  // namespace quipu
