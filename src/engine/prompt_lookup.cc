#include "engine/prompt_lookup.h"

#include <algorithm>

namespace quipu {

namespace {

// Shorter ends occur everywhere and foretell little; longer ones foretell no better.
constexpr int kMatchMin = 2, kMatchMax = 12;
// How far back to look: a scan of this many tokens takes microseconds. UNITS: tokens.
constexpr size_t kSearched = 16384;

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

bool PromptLookup::propose(std::span<const TokenId> tokens, int tokens_max, const DraftCosts& costs,
                           std::vector<TokenId>& draft) {
  draft.clear();
  const int count = tokens.size() < 2 ? 0 : gain_.count(tokens_max, costs);
  if (count <= 0) return false;
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
  if (from == 0) {
    gain_.found_none();
    return true;
  }
  // What follows may run into the end itself: the sequence then repeats with that period.
  const size_t period = tokens.size() - from;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i)
    draft.push_back(tokens[from + i % period]);
  return true;
}

}  // namespace quipu
