#include "kv/reuse_policy.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace quipu
