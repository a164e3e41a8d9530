// StepPacer: how many prompt tokens a step may compute while other requests wait for their next
// token, so that a long prompt slows running streams down by a bounded factor and never stalls
// them.
//
// A step takes about base + prompt_tokens * cost: on a CPU, base is reading the weights once, and a
// prompt's token is arithmetic on top. Both are learned from the steps themselves: a step without
// prompt tokens tells the base (one is made now and then), all others the cost. What may be
// computed is what keeps the step well within `stretch_max` times the base: 0.88 of it.
//
// Chunks change no bit of what is computed (ARCHITECTURE.md), so a pace may depend on measured
// time.
//
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/running_estimate.h"

namespace quipu {

class StepPacer {
 public:
  // stretch_max: at least 1; 0: no limit.
  explicit StepPacer(double stretch_max) : stretch_max_(stretch_max) {}

  // Prompt tokens for a step that has decodes, too: from 1 to the budget, or 0 when it is time for
  // a step without. UNITS: tokens.
  int prompt_tokens_max(int budget) const;

  // What one more prompt token costs beside a step of decodes, as a share of that step.
  double token_cost() const;
  // Whether there was a step of decodes alone,
  bool knows_decode_step() const { return knows_decode_step_; }
  // and how long such a one takes; nothing where no time is seen to pass. UNITS: ns.
  std::optional<double> decode_step_ns() const { return base_ns_.value(); }

  // What a step had, and how long it took.
  void took(int decodes, int prompt_tokens, int64_t duration_ns);

 private:
  double stretch_max_;
  RunningEstimate base_ns_;  // of a step with decodes alone
  RunningEstimate cost_ns_;  // of one prompt token
  bool knows_decode_step_ = false;
  int steps_since_probe_ = 0;  // with both
};

}  // namespace quipu
