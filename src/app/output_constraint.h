// OutputConstraint: a constraint on text, in the words of the engine.
// THREADS: as TokenConstraint.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "sample/token_constraint.h"
#include "text/constraint.h"

namespace quipu {

class OutputConstraint : public TokenConstraint {
 public:
  // At the beginning of an output; `compiled` stays as it is. OWNS: the tokenizer must outlive it.
  // ERRORS: kInternal.
  static Result<std::shared_ptr<TokenConstraint>> start(const Constraint& compiled,
                                                        const Tokenizer& tokenizer);

  Result<std::span<const uint32_t>> allowed() override {
    QUIPU_RETURN_IF_ERROR(state_.allowed(words_));
    return std::span<const uint32_t>(words_);
  }
  Status accept(TokenId token) override {
    last_ = token;
    return state_.accept(token);
  }
  void guess(int tokens_max, std::vector<TokenId>& tokens) const override;
  bool is_complete() const override { return state_.is_complete(); }

 private:
  OutputConstraint(Constraint state, const Tokenizer& tokenizer)
      : state_(std::move(state)),
        tokenizer_(tokenizer),
        words_((tokenizer.vocab_size() + 31) / 32, 0) {}
  bool guess_text(std::string_view text, std::vector<TokenId>& tokens) const;

  Constraint state_;
  const Tokenizer& tokenizer_;
  std::optional<TokenId> last_;
  std::vector<uint32_t> words_;
};

}  // namespace quipu
