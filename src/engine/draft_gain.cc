#include "engine/draft_gain.h"

#include <algorithm>

namespace quipu {

namespace {

constexpr double kChanceWeight = 0.1;   // of one outcome in chance_
constexpr double kLookWeight = 0.2;     // of one look: what pays changes within an output
constexpr int kStepsBetweenTries = 32;  // where guesses were found, and failed
constexpr int kTryTokens = 2;
// Where looks do not pay, they may take so much of the time.
constexpr double kTriesShare = 0.02;

}  // namespace

int DraftGain::count(int tokens_max, const DraftCosts& costs) {
  if (tokens_max <= 0) return 0;
  const int best = best_count(tokens_max, costs);
  // One that comes true saves a step, less what it takes. What wrong ones take is in best_count().
  if (best > 0 && accepted_ * (1 - costs.token) > costs.look) {
    steps_waited_ = 0;
    return best;
  }
  const double wait =
      std::max<double>(last_found_ ? kStepsBetweenTries : 1, costs.look / kTriesShare);
  if (++steps_waited_ < wait) return 0;
  steps_waited_ = 0;
  return std::min(std::max(best, kTryTokens), tokens_max);
}

// The number of guesses that makes tokens per time largest: with chance p, k guesses give
// 1 + p + ... + p^k tokens for a time of 1 + look + k * cost.
int DraftGain::best_count(int tokens_max, const DraftCosts& costs) const {
  int best = 0;
  double best_rate = 1, tokens = 1, chance = 1;
  for (int k = 1; k <= tokens_max; ++k) {
    chance *= chance_;
    tokens += chance;
    const double rate = tokens / (1 + costs.look + k * costs.token);
    if (rate <= best_rate) continue;
    best = k;
    best_rate = rate;
  }
  return best;
}

void DraftGain::note_look(int proposed, int accepted) {
  last_found_ = proposed > 0;
  accepted_ += kLookWeight * (accepted - accepted_);
}

void DraftGain::found_none() { note_look(0, 0); }

void DraftGain::judged(int proposed, int accepted) {
  note_look(proposed, accepted);
  for (int i = 0; i < accepted; ++i) chance_ += kChanceWeight * (1 - chance_);
  if (accepted < proposed) chance_ -= kChanceWeight * chance_;
}

}  // namespace quipu
