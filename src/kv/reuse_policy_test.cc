#include "kv/reuse_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "kv/eviction_order.h"
#include "kv/ghost_record.h"

namespace quipu {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

double worth_at_age(ReusePolicy& policy, int queue, int64_t seconds) {
  return policy.worth_now(queue, 0, seconds * kSecond);
}

TEST(ReusePolicy, BeforeAnythingWasSeenItIsLeastRecentlyUsedAndHitsCount) {
  ReusePolicy policy;
  const int once = policy.queue_of({.position = 100, .hits = 0});
  const int often = policy.queue_of({.position = 100, .hits = 9});
  EXPECT_NE(once, often);
  for (const int64_t age : {1, 10, 100, 1000, 10000}) {
    EXPECT_GT(worth_at_age(policy, once, age), worth_at_age(policy, once, age * 3));
    EXPECT_GT(worth_at_age(policy, often, age), worth_at_age(policy, once, age));
  }
}

TEST(ReusePolicy, LearnsThatABlockAboutToComeBackIsWorthMoreThanANewOne) {
  ReusePolicy policy;
  const int queue = policy.queue_of({});
  for (int i = 0; i < 3000; ++i) {
    policy.waits(queue);
    if (i % 3 == 0) policy.returned(queue, (60 + i % 20) * kSecond);
  }
  EXPECT_GT(worth_at_age(policy, queue, 50), 2 * worth_at_age(policy, queue, 0));
  EXPECT_GT(worth_at_age(policy, queue, 0), 2 * worth_at_age(policy, queue, 200));
  // Another class has learnt nothing from that.
  const int deep = policy.queue_of({.position = 100'000});
  EXPECT_GT(worth_at_age(policy, deep, 0), worth_at_age(policy, deep, 50));
}

TEST(GhostRecord, RemembersTheLatestAndForgetsTheOldest) {
  GhostRecord ghosts(4);
  const auto key = [](uint64_t id) { return id << 40; };
  for (uint64_t id = 1; id <= 6; ++id) ghosts.add(key(id), {.hits = static_cast<int32_t>(id)});
  ghosts.add(key(5), {.last_use_ns = 10 * kSecond, .hits = 50, .queue = 7});
  EXPECT_FALSE(ghosts.find(key(1)).has_value());
  ASSERT_TRUE(ghosts.find(key(5)).has_value());
  EXPECT_EQ(ghosts.find(key(5))->hits, 50);
  EXPECT_EQ(ghosts.find(key(5))->queue, 7);
  EXPECT_NEAR(static_cast<double>(ghosts.find(key(5))->last_use_ns), 10e9, 0.1e9);
  ASSERT_TRUE(ghosts.find(key(6)).has_value());
  ghosts.remove(key(6));
  EXPECT_FALSE(ghosts.find(key(6)).has_value());
  for (uint64_t id = 100; id < 1000; ++id) ghosts.add(key(id), {});
  EXPECT_FALSE(ghosts.find(key(5)).has_value());
  EXPECT_EQ(ghosts.bytes(), 64u);
}

// The order remembers what its queues have to offer; it must never remember too much.
TEST(EvictionOrder, NamesTheLeastOfAllEndsWhateverChanges) {
  for (const char* name : {"lru", "cost", "reuse"}) {
    EvictionOrder order(make_eviction_policy(name));
    EvictionPolicy& policy = order.policy();
    using Place = EvictionOrder::Place;
    std::vector<Place> waiting;
    // By looking at all: in each queue the first and the last of the least rank, by worth now.
    const auto expected = [&](int64_t now_ns, std::optional<int32_t> keep) {
      std::optional<std::tuple<int64_t, double, double, int32_t>> best;
      for (int32_t queue = 0; queue < policy.num_queues(); ++queue) {
        std::vector<Place> of_queue;
        for (const Place& place : waiting) {
          if (place.queue == queue && place.node != keep) of_queue.push_back(place);
        }
        std::ranges::sort(of_queue, {}, [](const Place& p) {
          return std::tuple(p.rank, p.worth, p.node);
        });
        if (of_queue.empty()) continue;
        const int64_t rank = of_queue.front().rank;
        std::erase_if(of_queue, [&](const Place& p) { return p.rank != rank; });
        if (of_queue.size() > 2) of_queue.erase(of_queue.begin() + 1, of_queue.end() - 1);
        if (!policy.considers_both_ends() && of_queue.size() > 1) of_queue.pop_back();
        for (const Place& p : of_queue) {
          const std::tuple key(p.rank, policy.worth_now(queue, p.worth, now_ns), p.worth, p.node);
          if (!best.has_value() || key < *best) best = key;
        }
      }
      return best.has_value() ? std::optional(std::get<3>(*best)) : std::nullopt;
    };
    Random random(7);
    int64_t now_ns = 0;
    for (int32_t node = 0; node < 4000; ++node) {
      const NodeUse use = {.sequence_number = node,
                           .time_ns = now_ns,
                           .position = static_cast<int64_t>(random.next_below(10'000)),
                           .hits = static_cast<int>(random.next_below(5))};
      const Place place = {random.next_below(9) == 0 ? -1 : 0, policy.worth(use), node,
                           policy.queue_of(use)};
      policy.waits(place.queue);
      order.insert(place);
      waiting.push_back(place);
      if (random.next_below(3) == 0) now_ns += static_cast<int64_t>(random.next_below(40)) * kSecond;
      while (waiting.size() > 30 || random.next_below(3) == 0) {
        std::optional<int32_t> keep;
        if (random.next_below(2) == 0 && !waiting.empty())
          keep = waiting[random.next_below(waiting.size())].node;
        const std::optional<Place> least = order.least(now_ns, keep);
        ASSERT_EQ(least.has_value() ? std::optional(least->node) : std::nullopt,
                  expected(now_ns, keep))
            << name << ", node " << node;
        if (!least.has_value()) break;
        order.erase(*least);
        std::erase_if(waiting, [&](const Place& p) { return p.node == least->node; });
        policy.evicted(least->worth);
        if (random.next_below(2) == 0)
          policy.returned(least->queue, static_cast<int64_t>(random.next_below(200)) * kSecond);
      }
    }
    EXPECT_EQ(order.size(), waiting.size());
  }
}

}  // namespace
}  // namespace quipu
