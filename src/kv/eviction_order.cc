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

// Equals go by the time of their last use, then by number: nothing is left to chance.
bool EvictionOrder::goes_before(const Offer& a, const Offer& b) {
  if (a.place.rank != b.place.rank) return a.place.rank < b.place.rank;
  if (a.worth_now != b.worth_now) return a.worth_now < b.worth_now;
  if (a.place.worth != b.place.worth) return a.place.worth < b.place.worth;
  return a.place.node < b.place.node;
}

EvictionOrder::EvictionOrder(std::unique_ptr<EvictionPolicy> policy) : policy_(std::move(policy)) {
  QUIPU_CHECK(policy_ != nullptr, "an order needs a policy");
  queues_.resize(static_cast<size_t>(policy_->num_queues()));
}

void EvictionOrder::insert(const Place& place) {
  Queue& queue = queues_[static_cast<size_t>(place.queue)];
  queue.nodes.insert(key_of(place));
  queue.is_stale = true;
  ++size_;
}

void EvictionOrder::erase(const Place& place) {
  Queue& queue = queues_[static_cast<size_t>(place.queue)];
  const size_t erased = queue.nodes.erase(key_of(place));
  QUIPU_CHECK(erased == 1, "node {} is not where it should wait", place.node);
  queue.is_stale = true;
  --size_;
}

bool EvictionOrder::contains(const Place& place) const {
  return queues_[static_cast<size_t>(place.queue)].nodes.contains(key_of(place));
}

size_t EvictionOrder::bytes() const {
  return size_ * (sizeof(Key) + 4 * sizeof(void*)) + queues_.capacity() * sizeof(Queue);
}

// The better of a queue's ends, but for `keep`.
std::optional<EvictionOrder::Offer> EvictionOrder::offer_of(int32_t queue, int64_t now_ns,
                                                            std::optional<int32_t> keep) const {
  const std::set<Key>& nodes = queues_[static_cast<size_t>(queue)].nodes;
  const auto first = first_but(nodes.begin(), nodes.end(), keep);
  if (!first.has_value()) return std::nullopt;
  const auto offer = [&](const Key& key) {
    const auto [rank, worth, node] = key;
    return Offer{{rank, worth, node, queue}, policy_->worth_now(queue, worth, now_ns)};
  };
  const Offer of_first = offer(**first);
  if (!policy_->considers_both_ends()) return of_first;
  // The last one of the same rank.
  const int64_t rank = std::get<0>(**first);
  auto end = nodes.end();
  if (std::get<0>(*nodes.rbegin()) != rank)
    end = nodes.lower_bound(Key{rank + 1, -std::numeric_limits<double>::infinity(), 0});
  const auto last = first_but(std::make_reverse_iterator(end), nodes.rend(), keep);
  const Offer of_last = offer(**last);
  return goes_before(of_last, of_first) ? of_last : of_first;
}

std::optional<EvictionOrder::Place> EvictionOrder::least(int64_t now_ns,
                                                         std::optional<int32_t> keep) {
  const bool all_stale = offers_ns_ != now_ns || offers_version_ != policy_->version();
  offers_ns_ = now_ns;
  offers_version_ = policy_->version();
  std::optional<Offer> best, kept;
  for (int32_t q = 0; q < static_cast<int32_t>(queues_.size()); ++q) {
    Queue& queue = queues_[static_cast<size_t>(q)];
    if (queue.is_stale || all_stale) {
      queue.offer = offer_of(q, now_ns, std::nullopt);
      queue.is_stale = false;
    }
    if (keep.has_value()) kept = offer_of(q, now_ns, keep);
    const std::optional<Offer>& offer = keep.has_value() ? kept : queue.offer;
    if (offer.has_value() && (!best.has_value() || goes_before(*offer, *best))) best = offer;
  }
  return best.has_value() ? std::optional(best->place) : std::nullopt;
}

}  // namespace quipu
