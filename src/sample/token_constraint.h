// TokenConstraint: which tokens may come next in one output, in the words of those who only know
// ids. What the ids spell, and what grammar they follow, is known to who implements it.
//
// THREADS: engine thread only; one per sequence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"

namespace quipu {

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // The tokens that may come next: bit i % 32 of word i / 32 for token i; at least one. Ids that
  // have no bit may not. SHAPE: result: [ceil(tokens / 32)]. OWNS: valid until the next call.
  // REQUIRES: not is_complete(). ERRORS: kResourceExhausted when a limit on the work for one token
  // is reached, or nothing can follow.
  virtual Result<std::span<const uint32_t>> allowed() = 0;

  // Goes on by a token that was allowed. ERRORS: as allowed().
  virtual Status accept(TokenId token) = 0;

  // Appends at most `tokens_max` guesses for the next tokens, where all continuations begin with the
  // same text: certain in what they spell, but not in how. Changes nothing.
  virtual void guess(int tokens_max, std::vector<TokenId>& tokens) const {
    static_cast<void>(tokens_max);
    static_cast<void>(tokens);
  }

  // Nothing can follow: the output ends here.
  virtual bool is_complete() const = 0;
};

}  // namespace quipu
