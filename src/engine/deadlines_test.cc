// Simulation of the scheduler under deadlines and pins, with a fake clock: late requests end with
// the next plan, wherever they are; pins keep what they promised and starve nobody.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "engine/scheduler.h"
#include "kv/kv_pins.h"

namespace quipu {
namespace {

constexpr int kBlockTokens = 16;
constexpr int64_t kStepNs = 1'000'000;

Request request_of(int64_t id, std::vector<TokenId> prompt, int64_t max_tokens) {
  Request request;
  request.id = RequestId(id);
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

struct Simulation {
  explicit Simulation(int blocks)
      : scheduler({.batch_tokens_max = 64,
                   .prefill_chunk_max = 32,
                   .sequences_max = 4,
                   .context_length = 128},
                  {.groups = {{blocks, {}}}, .block_tokens = kBlockTokens}, clock),
        pins(scheduler.cache(), scheduler.token_limit(), {.share = 0.5}, clock) {}

  // A step takes a millisecond. Any next token will do: what is tested is when requests end.
  void step() {
    scheduler.plan(plan);
    events.clear();
    scheduler.take_cancelled(events);
    clock.advance_ns(kStepNs);
    if (plan.empty()) return;
    size_t tokens = 0;
    for (const ScheduledSequence& scheduled : plan.sequences)
      tokens += 1 + static_cast<size_t>(scheduled.num_drafts);
    scheduler.commit(plan, std::vector<TokenId>(tokens, 7), events);
    scheduler.check_invariants();
    pins.expire();
    pins.check_invariants();
  }

  FakeClock clock;
  Scheduler scheduler;
  KvPins pins;
  StepPlan plan;
  std::vector<StepEvent> events;
};

TEST(Deadlines, ALateRequestEndsWithTheNextPlanWaitingOrRunning) {
  Simulation simulation(40);
  for (int64_t id = 0; id < 6; ++id) {  // four run, two wait
    Request request = request_of(id, std::vector<TokenId>(20, static_cast<TokenId>(id)), 100);
    if (id == 1 || id == 5) request.deadline_ns = 10 * kStepNs;
    ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  }
  for (int i = 0; i < 10; ++i) {
    simulation.step();
    for (const StepEvent& event : simulation.events) EXPECT_EQ(event.finish, FinishReason::kNone);
  }
  simulation.step();
  std::map<int64_t, StepEvent> ended;
  for (const StepEvent& event : simulation.events) {
    if (event.finish != FinishReason::kNone) ended[event.id.value()] = event;
  }
  ASSERT_EQ(ended.size(), 2u);
  for (const int64_t id : {1, 5}) {
    ASSERT_TRUE(ended.contains(id));
    EXPECT_EQ(ended[id].finish, FinishReason::kDeadline);
    EXPECT_EQ(ended[id].stats.finished_ns, 10 * kStepNs);
  }
  EXPECT_TRUE(ended[1].stats.started_ns.has_value());
  EXPECT_GT(ended[1].stats.completion_tokens, 0);
  EXPECT_FALSE(ended[5].stats.started_ns.has_value());
  EXPECT_EQ(simulation.scheduler.counters().deadlines_passed, 2);
  EXPECT_EQ(simulation.scheduler.num_running(), 4);  // its place is taken in the same step
}

TEST(Deadlines, OneThatHasPassedAlreadyComputesNothing) {
  Simulation simulation(40);
  simulation.clock.advance_ns(5);
  Request request = request_of(1, {1, 2, 3}, 10);
  request.deadline_ns = 5;
  ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  simulation.step();
  ASSERT_EQ(simulation.events.size(), 1u);
  EXPECT_EQ(simulation.events[0].finish, FinishReason::kDeadline);
  EXPECT_TRUE(simulation.plan.empty());
  EXPECT_FALSE(simulation.scheduler.has_work());
}

int64_t steps_wanted() {
  const char* wanted = std::getenv("QUIPU_KV_TEST_OPERATIONS");
  if (wanted != nullptr) return std::atoll(wanted) / 10;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 5'000;
#else
  return 60'000;
#endif
}

// Requests of all lengths, half of them with deadlines, in a pool of 20 blocks of which pins hold
// up to 10, beside a request of full length (8 blocks). Who has no deadline ends in bounded time.
TEST(Deadlines, PinsAndDeadlinesUnderPressure) {
  struct Asked {
    int64_t step = 0;
    std::optional<int64_t> deadline_ns;
  };
  Random random(11);
  Simulation simulation(20);
  ASSERT_EQ(simulation.pins.owner_budget(0), 10);
  std::map<int64_t, Asked> asked;
  std::vector<std::vector<TokenId>> prompts;
  int64_t next_id = 0, ended = 0, late = 0, longest = 0, refused = 0, pinned_steps = 0;
  const int64_t steps = steps_wanted();
  for (int64_t step = 0; step < steps || simulation.scheduler.has_work(); ++step) {
    if (step < steps && asked.size() < 12 && random.next_below(3) == 0) {
      std::vector<TokenId> prompt(1 + random.next_below(120));
      const auto family = static_cast<TokenId>(random.next_below(6));
      for (size_t i = 0; i < prompt.size(); ++i)
        prompt[i] = i < 40 ? family : static_cast<TokenId>(random.next_below(3));
      Request request = request_of(next_id, prompt, static_cast<int64_t>(random.next_below(40)));
      if (random.next_below(2) == 0) {
        request.deadline_ns =
            simulation.clock.now_ns() + static_cast<int64_t>(random.next_below(60)) * kStepNs;
      }
      asked[next_id] = {step, request.deadline_ns};
      ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
      prompts.push_back(std::move(prompt));
      if (prompts.size() > 20) prompts.erase(prompts.begin());
      ++next_id;
    }
    if (!prompts.empty() && random.next_below(4) == 0) {
      KvPin pin;
      pin.name = std::to_string(step);
      pin.tokens = prompts[random.next_below(prompts.size())];
      if (random.next_below(2) == 0) pin.expires_ns = simulation.clock.now_ns() + 200 * kStepNs;
      refused += simulation.pins.pin(std::move(pin)) == KvPins::Outcome::kOverBudget;
    } else if (random.next_below(20) == 0 && simulation.pins.num_pins() > 0) {
      ASSERT_TRUE(simulation.pins.unpin("", simulation.pins.list("").front()->name));
    }
    simulation.step();
    pinned_steps += simulation.pins.held_blocks(0) > 5;
    for (const StepEvent& event : simulation.events) {
      if (event.finish == FinishReason::kNone) continue;
      const auto found = asked.find(event.id.value());
      ASSERT_NE(found, asked.end()) << "a second end of " << event.id.value();
      ++ended;
      if (event.finish == FinishReason::kDeadline) {
        ++late;
        ASSERT_TRUE(found->second.deadline_ns.has_value());
        EXPECT_GE(event.stats.finished_ns, *found->second.deadline_ns);
        EXPECT_LT(event.stats.finished_ns, *found->second.deadline_ns + kStepNs + 1);
      } else if (found->second.deadline_ns.has_value()) {
        // Its last token came out of a step that began in time.
        EXPECT_LE(event.stats.finished_ns, *found->second.deadline_ns + kStepNs);
      }
      longest = std::max(longest, step - found->second.step);
      asked.erase(found);
    }
    for (const auto& [id, ask] : asked)
      ASSERT_LT(step - ask.step, 3000) << "request " << id << " starves";
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_EQ(ended, next_id);
  EXPECT_GT(late, ended / 20);
  EXPECT_LT(late, ended);
  EXPECT_GT(refused, 10);
  EXPECT_GT(pinned_steps, steps / 4) << "the pins were hardly in the way";
  while (simulation.pins.num_pins() > 0)
    simulation.pins.unpin("", simulation.pins.list("").front()->name);
  simulation.scheduler.cache().clear();
  EXPECT_EQ(simulation.scheduler.cache().free_blocks(), 20);
  fmt::print("{} requests, {} late, {} pins refused, the longest took {} steps\n", ended, late,
             refused, longest);
}

}  // namespace
}  // namespace quipu
