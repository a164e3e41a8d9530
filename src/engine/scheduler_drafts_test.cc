// Guesses of a constraint that takes its time to find them, on a machine whose steps take what they
// are told to: whether the scheduler asks for them follows from what they save.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "engine/scheduler.h"

namespace quipu {
namespace {

constexpr int kTokens = 300;  // of output

// What a model says next; any text will do.
TokenId next_of(std::span<const TokenId> tokens) {
  return static_cast<TokenId>((tokens.size() * 7 + static_cast<size_t>(tokens.back()) * 3) % 50);
}

// Knows what the model will say. Looking takes `look_ns` of the clock and finds `known` tokens.
class SlowConstraint : public TokenConstraint {
 public:
  SlowConstraint(FakeClock& clock, const Scheduler& scheduler, int64_t look_ns, int known)
      : clock_(clock), scheduler_(scheduler), look_ns_(look_ns), known_(known) {}

  Result<std::span<const uint32_t>> allowed() override { return std::span(all_); }
  Status accept(TokenId) override { return Status::ok_status(); }
  bool is_complete() const override { return false; }
  void guess(int tokens_max, std::vector<TokenId>& tokens) const override {
    clock_.advance_ns(look_ns_);
    std::vector<TokenId> all = scheduler_.running().front()->tokens;
    for (int i = 0; i < std::min(tokens_max, known_); ++i) {
      all.push_back(next_of(all));
      tokens.push_back(all.back());
    }
  }

 private:
  const std::vector<uint32_t> all_ = {~0u, ~0u};
  FakeClock& clock_;
  const Scheduler& scheduler_;
  const int64_t look_ns_;
  const int known_;
};

struct Run {
  int64_t time_ns = 0;
  std::vector<TokenId> output;
  int64_t guessed = 0;
};

// A step takes 1 ms, and 50 us for each token more.
Run run(int forced_tokens_max, int64_t look_ns, int known) {
  FakeClock clock;
  const SchedulerConfig config = {.context_length = kTokens + 16,
                                  .forced_tokens_max = forced_tokens_max};
  KvCacheConfig cache;
  cache.groups = {{32, {}}};
  cache.block_tokens = 16;
  Scheduler scheduler(config, cache, clock);
  Request request;
  request.id = RequestId(1);
  request.prompt = {1, 2, 3};
  request.max_tokens = kTokens;
  request.constraint = std::make_shared<SlowConstraint>(clock, scheduler, look_ns, known);
  EXPECT_TRUE(scheduler.submit(std::move(request)).ok());
  Run result;
  StepPlan plan;
  while (scheduler.has_work()) {
    scheduler.plan(plan);
    std::vector<TokenId> next;
    int computed = 0;
    for (const ScheduledSequence& scheduled : plan.sequences) {
      computed += scheduled.num_computed();
      std::vector<TokenId> tokens = scheduled.sequence->tokens;
      next.push_back(next_of(tokens));
      for (int i = 0; i < scheduled.num_drafts; ++i) {
        tokens.push_back(scheduled.sequence->draft[static_cast<size_t>(i)]);
        next.push_back(next_of(tokens));
      }
    }
    clock.advance_ns(950'000 + 50'000 * computed);
    std::vector<StepEvent> events;
    scheduler.commit(plan, next, events);
    for (const StepEvent& event : events) {
      if (event.token.has_value()) result.output.push_back(*event.token);
    }
  }
  result.time_ns = clock.now_ns();
  result.guessed = scheduler.counters().forced_accepted;
  return result;
}

// Beside the time without guesses.
double time_with_guesses(int64_t look_ns, int known) {
  const Run plain = run(0, look_ns, known), guessing = run(8, look_ns, known);
  EXPECT_EQ(guessing.output, plain.output);
  EXPECT_EQ(plain.guessed, 0);
  EXPECT_EQ(plain.output.size(), static_cast<size_t>(kTokens));
  return static_cast<double>(guessing.time_ns) / static_cast<double>(plain.time_ns);
}

TEST(SchedulerDrafts, GuessesAreMadeWhereTheyPayForTheTimeOfLookingForThem) {
  EXPECT_LT(time_with_guesses(20'000, 4), 0.35);
  EXPECT_LT(time_with_guesses(500'000, 4), 0.5);
}

TEST(SchedulerDrafts, AndHardlyEverWhereTheyDoNot) {
  EXPECT_LT(time_with_guesses(1'500'000, 1), 1.04);  // one guess, for more than a step's time
  EXPECT_LT(time_with_guesses(200'000, 0), 1.04);    // nothing, for a fifth of one
}

}  // namespace
}  // namespace quipu
