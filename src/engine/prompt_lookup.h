// PromptLookup: guesses the next tokens of a sequence from what it contains already. Where the last
// tokens occurred before, what followed them then is likely to follow again: in summaries, edits of
// code, answers that quote.
//
// A step that computes some guessed tokens beside the known last one tells for each of them whether
// it is what the sampler would have chosen; those that are count as generated, in one step instead
// of several. The text is the same with and without guesses, bit for bit, since a token's logits do
// not depend on how many are computed together (ARCHITECTURE.md).
//
// How many are worth it: draft_gain.h.
// SOURCE: Saxena 2023, prompt lookup decoding.
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/strong_id.h"
#include "engine/draft_gain.h"

namespace quipu {

class PromptLookup {
 public:
  // Replaces `draft` by at most `tokens_max` guesses for what follows `tokens`. False: it did not
  // look, since that would not pay.
  bool propose(std::span<const TokenId> tokens, int tokens_max, const DraftCosts& costs,
               std::vector<TokenId>& draft);

  // What came of the last proposal that was computed.
  void judged(int proposed, int accepted) { gain_.judged(proposed, accepted); }

 private:
  DraftGain gain_{0.5};
};

}  // namespace quipu
