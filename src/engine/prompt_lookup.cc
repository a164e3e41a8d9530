#include "engine/prompt_lookup.h"

#include <algorithm>

namespace quipu {

namespace {

// Shorter ends occur everywhere and foretell little; longer ones foretell no better.
constexpr int kMatchMin = 2, kMatchMax = 12;
// How far back to look: a scan of this many tokens takes microseconds. UNITS: tokens.
constexpr size_t kSearched = 16384;
constexpr double kWeight = 0.1;       // of one outcome in chance_
constexpr int kStepsBetweenTries = 32;  // while no guess is worth it
constexpr int kTryTokens = 2;

// How many tokens before `end` equal those before the sequence's end, up to kMatchMax.
int match_before(std::span<const TokenId> tokens, size_t end) {
  int length = 0;
  while (length < kMatchMax && static_cast<size_t>(length) < end &&
         tokens[end - 1 - static_cast<size_t>(length)] ==
             tokens[tokens.size() - 1 - static_cast<size_t>(length)]) {
    ++length;
  }
  return length;
}

}  // namespace

// The number of guesses that makes tokens per time largest: with chance p, k guesses give
// 1 + p + ... + p^k tokens for a time of 1 + k * cost.
int PromptLookup::worthwhile(int tokens_max, double token_cost) const {
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
  return best;
}

void PromptLookup::propose(std::span<const TokenId> tokens, int tokens_max, double token_cost,
                           std::vector<TokenId>& draft) {
  draft.clear();
  int count = worthwhile(tokens_max, token_cost);
  if (count == 0 && ++steps_waited_ >= kStepsBetweenTries) count = std::min(kTryTokens, tokens_max);
  if (count <= 0 || tokens.size() < 2) return;
  // The latest of the longest matches.
  size_t from = 0;
  int longest = kMatchMin - 1;
  const size_t lowest = tokens.size() > kSearched ? tokens.size() - kSearched : 1;
  for (size_t end = tokens.size() - 1; end >= lowest && longest < kMatchMax; --end) {
    if (tokens[end - 1] != tokens.back()) continue;
    const int length = match_before(tokens, end);
    if (length <= longest) continue;
    longest = length;
    from = end;
  }
  if (from == 0) return;
  steps_waited_ = 0;
  // What follows may run into the end itself: the sequence then repeats with that period.
  const size_t period = tokens.size() - from;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i)
    draft.push_back(tokens[from + i % period]);
}

void PromptLookup::judged(int proposed, int accepted) {
  for (int i = 0; i < accepted; ++i) chance_ += kWeight * (1 - chance_);
  if (accepted < proposed) chance_ -= kWeight * chance_;
}

}  // namespace quipu
