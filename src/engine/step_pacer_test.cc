#include "engine/step_pacer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace quipu {
namespace {

// A machine whose steps take `base` and `cost` for each prompt token. UNITS: ns.
struct Machine {
  int64_t base, cost;
  int64_t step(int prompt_tokens) const { return base + cost * prompt_tokens; }
};

struct Outcome {
  int64_t longest_ns = 0;     // of the second half of the steps
  double prompt_tokens = 0;   // of a step, on average
};

// Steps with as many prompt tokens as the pacer lets through.
Outcome run(StepPacer& pacer, const Machine& machine, int steps, int budget = 512) {
  Outcome outcome;
  for (int i = 0; i < steps; ++i) {
    const int tokens = pacer.prompt_tokens_max(budget);
    EXPECT_GE(tokens, 0);
    EXPECT_LE(tokens, budget);
    const int64_t took = machine.step(tokens);
    pacer.took(4, tokens, took);
    if (i < steps / 2) continue;
    outcome.longest_ns = std::max(outcome.longest_ns, took);
    outcome.prompt_tokens += tokens / (steps / 2.0);
  }
  return outcome;
}

TEST(StepPacer, WithoutALimitTheBudgetIsTheLimit) {
  StepPacer pacer(0);
  pacer.took(4, 0, 1'000'000);
  pacer.took(0, 100, 900'000'000);
  EXPECT_EQ(pacer.prompt_tokens_max(512), 512);
}

TEST(StepPacer, KeepsStepsWithinTheStretchOnceItKnowsTheMachine) {
  for (const Machine machine : {Machine{25'000'000, 1'700'000}, Machine{100'000, 30'000},
                                Machine{60'000'000, 100'000}}) {
    StepPacer pacer(2);
    pacer.took(0, 512, machine.step(512));
    for (int i = 0; i < 8; ++i) pacer.took(4, 0, machine.step(0));
    const Outcome outcome = run(pacer, machine, 200);
    EXPECT_LE(outcome.longest_ns, machine.base * 18 / 10);
    // And lets through nearly what it aims at: steps of 1.76 times the base.
    const double allowed = std::floor(0.76 * static_cast<double>(machine.base) /
                                      static_cast<double>(machine.cost));
    EXPECT_GE(outcome.prompt_tokens, 0.9 * std::min(allowed, 512.0));
  }
}

TEST(StepPacer, FollowsAMachineThatChanges) {
  StepPacer pacer(2);
  Machine machine{20'000'000, 1'000'000};
  for (int i = 0; i < 10; ++i) {
    pacer.took(0, 256, machine.step(256));
    pacer.took(4, 0, machine.step(0));
  }
  EXPECT_NEAR(pacer.prompt_tokens_max(512), 15, 2);
  machine.cost = 4'000'000;  // a longer context
  for (int i = 0; i < 30; ++i) {
    pacer.took(0, 256, machine.step(256));
    pacer.took(4, 0, machine.step(0));
  }
  EXPECT_NEAR(pacer.prompt_tokens_max(512), 4, 1);
}

TEST(StepPacer, MovesOnWhereEvenOneTokenIsTooMuch) {
  StepPacer pacer(1);
  pacer.took(4, 0, 1000);
  pacer.took(0, 10, 1'000'000'000);
  EXPECT_EQ(pacer.prompt_tokens_max(512), 1);
  EXPECT_EQ(pacer.prompt_tokens_max(0), 0);  // no budget at all
}

// Streams that join raise the base while prompts never pause: prompts slow down and do not stop.
TEST(StepPacer, PromptsGoOnWhileStreamsJoin) {
  StepPacer pacer(2);
  Machine machine{25'000'000, 1'700'000};
  pacer.took(0, 512, machine.step(512));
  for (int i = 0; i < 8; ++i) pacer.took(1, 0, machine.step(0));
  machine.base = 75'000'000;
  const Outcome outcome = run(pacer, machine, 400);
  EXPECT_LE(outcome.longest_ns, machine.base * 18 / 10);
  EXPECT_GE(outcome.prompt_tokens, 0.9 * std::floor(0.76 * 75'000'000 / 1'700'000));
}

// One step that the machine took away for something else does not stop prompts.
TEST(StepPacer, OneSlowStepDoesNotSettleIt) {
  StepPacer pacer(2);
  const Machine machine{20'000'000, 1'000'000};
  for (int i = 0; i < 10; ++i) {
    pacer.took(0, 256, machine.step(256));
    pacer.took(4, 0, machine.step(0));
  }
  const int before = pacer.prompt_tokens_max(512);
  pacer.took(4, before, 50 * machine.step(before));
  EXPECT_GE(pacer.prompt_tokens_max(512), before / 2);
  EXPECT_LE(pacer.prompt_tokens_max(512), before * 2);
}

}  // namespace
}  // namespace quipu
