#include "engine/step_pacer.h"

#include <algorithm>

namespace quipu {

namespace {

// Before anything is known: little enough not to be felt beside the weights that a step reads.
constexpr int kTokensUnknown = 16;
// After so many steps with both, one has decodes alone: streams come and go and contexts grow, and
// nothing else tells the base. It costs prompts about 3 % of the time.
constexpr int kStepsBetweenProbes = 16;
// Steps aim below the stretch: where they aimed at it, streams took longer than that beside a
// prompt (docs/SERVING.md), as the base is learned among steps with prompts and users compare with
// idle ones.
constexpr double kAim = 0.88;
// The least of a step that its prompt tokens are thought to take.
constexpr double kShareMin = 0.02;

}  // namespace

int StepPacer::prompt_tokens_max(int budget) const {
  if (stretch_max_ == 0 || budget == 0) return budget;
  if (steps_since_probe_ >= kStepsBetweenProbes) return 0;
  double tokens = kTokensUnknown;
  if (base_ns_.value().has_value() && cost_ns_.value().has_value())
    tokens = (kAim * stretch_max_ - 1) * *base_ns_.value() / *cost_ns_.value();
  return static_cast<int>(std::clamp<double>(tokens, 1, budget));
}

double StepPacer::token_cost() const {
  if (base_ns_.value().has_value() && cost_ns_.value().has_value())
    return *cost_ns_.value() / *base_ns_.value();
  return 1.0 / kTokensUnknown;
}

void StepPacer::took(int decodes, int prompt_tokens, int64_t duration_ns) {
  knows_decode_step_ |= decodes > 0 && prompt_tokens == 0;
  if (duration_ns <= 0 || decodes + prompt_tokens == 0) return;
  const auto seen = static_cast<double>(duration_ns);
  if (prompt_tokens == 0) {
    steps_since_probe_ = 0;
    return base_ns_.observe(seen);
  }
  if (decodes > 0) ++steps_since_probe_;
  // A prompt alone: reading the weights is part of the step. Without a base, all counts as cost,
  // which is little too much for a long chunk; the steps that follow put it right.
  cost_ns_.observe(std::max(seen - base_ns_.value().value_or(0), kShareMin * seen) / prompt_tokens);
}

}  // namespace quipu
