// OutputConstraint: a constraint on text, in the words of the engine.
// THREADS: as TokenConstraint.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "sample/token_constraint.h"
#include "text/constraint.h"

namespace quipu {

class OutputConstraint : public TokenConstraint {
 public:
  // At the beginning of an output; `compiled` stays as it is. ERRORS: kInternal.
  static Result<std::shared_ptr<TokenConstraint>> start(const Constraint& compiled,
                                                        size_t vocabulary_size);

  Result<std::span<const uint32_t>> allowed() override {
    QUIPU_RETURN_IF_ERROR(state_.allowed(words_));
    return std::span<const uint32_t>(words_);
  }
  Status accept(TokenId token) override { return state_.accept(token); }
  bool is_complete() const override { return state_.is_complete(); }

 private:
  OutputConstraint(Constraint state, size_t vocabulary_size)
      : state_(std::move(state)), words_((vocabulary_size + 31) / 32, 0) {}

  Constraint state_;
  std::vector<uint32_t> words_;
};

}  // namespace quipu
