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
  for (uint64_t key = 1; key <= 6; ++key)
    ghosts.add({.key = key, .last_use_ns = static_cast<int64_t>(key)});
  ghosts.add({.key = 5, .last_use_ns = 50});
  EXPECT_EQ(ghosts.find(1), nullptr);
  ASSERT_NE(ghosts.find(5), nullptr);
  EXPECT_EQ(ghosts.find(5)->last_use_ns, 50);
  ASSERT_NE(ghosts.find(6), nullptr);
  ghosts.remove(6);
  EXPECT_EQ(ghosts.find(6), nullptr);
  for (uint64_t key = 100; key < 1000; ++key) ghosts.add({.key = key});
  EXPECT_EQ(ghosts.find(5), nullptr);
  EXPECT_LE(ghosts.size(), 4u);
}

}  // namespace
}  // namespace quipu
