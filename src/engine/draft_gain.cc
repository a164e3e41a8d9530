#include "engine/draft_gain.h"

#include <algorithm>

namespace quipu {

namespace {

constexpr double kWeight = 0.1;         // of one outcome in chance_
constexpr int kStepsBetweenTries = 32;  // while no guess is worth it
constexpr int kTryTokens = 2;

}  // namespace

// The number of guesses that makes tokens per time largest: with chance p, k guesses give
// 1 + p + ... + p^k tokens for a time of 1 + k * cost.
int DraftGain::count(int tokens_max, double token_cost) {
  int best = 0;
  double best_rate = 1, tokens = 1, chance = 1;
  for (int k = 1; k <= tokens_max; ++k) {
    chance *= chance_;
    tokens += chance;
    const double rate = tokens / (1 + k * token_cost);
    if (rate <= best_rate) continue;
    best = k;
    best_rate = rate;
  }
  if (best == 0 && ++steps_waited_ >= kStepsBetweenTries) return std::min(kTryTokens, tokens_max);
  return best;
}

void DraftGain::judged(int proposed, int accepted) {
  for (int i = 0; i < accepted; ++i) chance_ += kWeight * (1 - chance_);
  if (accepted < proposed) chance_ -= kWeight * chance_;
}

}  // namespace quipu
