#include "app/fair_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"

namespace quipu {
namespace {

std::vector<int64_t> pop_all(FairQueue& queue, int64_t now_ns) {
  std::vector<int64_t> order;
  while (const auto next = queue.pop(now_ns)) order.push_back(next->id.value());
  return order;
}

TEST(FairQueue, GoesByPriorityThenArrivalWithinATenant) {
  FairQueue queue;
  int64_t id = 0;
  for (const int priority : {3, 0, 3, -2, 0}) queue.push(RequestId(id++), priority, "a", 0);
  EXPECT_EQ(queue.size(), 5u);
  EXPECT_EQ(pop_all(queue, 0), (std::vector<int64_t>{3, 1, 4, 0, 2}));
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.pop(0).has_value());
}

TEST(FairQueue, TenantsTakeTurnsByWhatWasComputedForThem) {
  FairQueue queue;
  for (int64_t id = 0; id < 6; ++id) queue.push(RequestId(id), 0, "many", 0);
  queue.push(RequestId(10), 0, "few", 0);
  queue.push(RequestId(11), 0, "few", 0);
  std::vector<int64_t> order;
  while (const auto next = queue.pop(0)) {
    order.push_back(next->id.value());
    // Requests of "few" are three times as long.
    queue.charge(next->id.value() < 10 ? "many" : "few", next->id.value() < 10 ? 100 : 300);
  }
  EXPECT_EQ(order, (std::vector<int64_t>{0, 10, 1, 2, 3, 11, 4, 5}));
}

TEST(FairQueue, IdleTimeGivesNoCredit) {
  FairQueue queue;
  queue.push(RequestId(0), 0, "busy", 0);
  queue.push(RequestId(1), 0, "idle", 0);
  ASSERT_EQ(queue.pop(0)->id, RequestId(0));
  ASSERT_EQ(queue.pop(0)->id, RequestId(1));
  for (int64_t id = 2; id < 100; ++id) {  // "busy" alone, for long
    queue.push(RequestId(id), 0, "busy", 0);
    ASSERT_TRUE(queue.pop(0).has_value());
    queue.charge("busy", 1000);
  }
  for (int64_t id = 100; id < 110; ++id) queue.push(RequestId(id), 0, "idle", 0);
  for (int64_t id = 200; id < 210; ++id) queue.push(RequestId(id), 0, "busy", 0);
  int idle_in_a_row = 0;
  while (queue.pop(0)->id.value() < 200) {
    queue.charge("idle", 1000);
    ++idle_in_a_row;
  }
  EXPECT_LE(idle_in_a_row, 2);
}

TEST(FairQueue, WaitingMakesThePriorityBetter) {
  FairQueue queue;
  queue.push(RequestId(0), 10, "a", 0);
  int64_t now_ns = 0, id = 1;
  // Urgent requests come without end; the other one starts once it waited long enough.
  for (; id < 1000; ++id, now_ns += 1'000'000'000) {
    queue.push(RequestId(id), 0, "b", now_ns);
    const auto next = queue.pop(now_ns);
    queue.charge("b", 10);
    if (next->id != RequestId(0)) continue;
    EXPECT_EQ(next->priority, 0);
    break;
  }
  EXPECT_GE(now_ns, 10 * FairQueue::kAgeingNs);
  EXPECT_LE(now_ns, 11 * FairQueue::kAgeingNs);
}

TEST(FairQueue, LateOnesComeOutByThemselvesAndOthersWait) {
  FairQueue queue;
  queue.push(RequestId(0), 0, "a", 0, 500);
  queue.push(RequestId(1), -5, "a", 0, 300);
  queue.push(RequestId(2), 0, "b", 0);
  queue.push(RequestId(3), 0, "b", 0, 301);
  std::vector<RequestId> late;
  queue.take_late(299, late);
  EXPECT_TRUE(late.empty());
  queue.take_late(300, late);
  EXPECT_EQ(late, std::vector{RequestId(1)});
  EXPECT_EQ(queue.pop(300)->id, RequestId(0));  // taken in time: it is late no more
  queue.take_late(1'000, late);
  EXPECT_EQ(late, (std::vector{RequestId(1), RequestId(3)}));
  EXPECT_EQ(pop_all(queue, 1'000), std::vector<int64_t>{2});
  EXPECT_TRUE(queue.empty());
}

TEST(FairQueue, EveryRequestComesOutOnceAndTenantsAreForgotten) {
  Random random(5);
  FairQueue queue;
  std::set<int64_t> waiting;
  std::map<int64_t, int64_t> deadlines;  // by id
  std::vector<RequestId> late;
  int64_t id = 0, now_ns = 0;
  for (int step = 0; step < 100'000; ++step, now_ns += 50'000'000) {
    const uint64_t what = random.next_below(10);
    const std::string tenant = std::to_string(random.next_below(1 + step / 100));
    if (what < 4) {
      std::optional<int64_t> deadline_ns;
      if (random.next_below(2) == 0) {
        deadline_ns = now_ns + static_cast<int64_t>(random.next_below(60'000'000'000));
        deadlines[id] = *deadline_ns;
      }
      queue.push(RequestId(id), static_cast<int>(random.next_below(7)) - 3, tenant, now_ns,
                 deadline_ns);
      waiting.insert(id++);
    } else if (what < 9) {
      const auto next = queue.pop(now_ns);
      ASSERT_EQ(next.has_value(), !waiting.empty());
      if (!next.has_value()) continue;
      ASSERT_EQ(waiting.erase(next->id.value()), 1u);
      queue.charge(tenant, static_cast<int64_t>(random.next_below(100)));
    } else {
      const auto some = static_cast<int64_t>(random.next_below(static_cast<uint64_t>(id) + 1));
      ASSERT_EQ(queue.erase(RequestId(some)), waiting.erase(some) == 1);
    }
    late.clear();
    queue.take_late(now_ns, late);
    for (const RequestId gone : late) {
      ASSERT_EQ(waiting.erase(gone.value()), 1u);
      ASSERT_LE(deadlines.at(gone.value()), now_ns);
      // Looked at after each step of 50 ms: none was left longer.
      ASSERT_GT(deadlines.at(gone.value()), now_ns - 50'000'000);
    }
    ASSERT_EQ(queue.size(), waiting.size());
  }
  pop_all(queue, now_ns);
  EXPECT_TRUE(queue.empty());
  // Only those stay that were served more than whoever came last.
  EXPECT_LT(queue.num_tenants(), 1000u);
}

}  // namespace
}  // namespace quipu
