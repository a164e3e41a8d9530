// Sampler: logits of one position -> one token id.
//
// Order: constraint, logit bias, repetition / presence / frequency penalties, temperature, top-k,
// top-p, min-p, draw. Top-p counts the probabilities left after top-k; min-p is relative to the
// best token. The draw goes through what is left by id, and depends on (seed, position) only, so a
// request gives the same text alone or in a batch, before and after a preemption (architecture.md,
// determinism contract, rule 4). A token of less than 2^-40 of the best one's probability is never
// drawn.
// THREADS: thread-compatible; one per sequence. A steady state allocates nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/strong_id.h"
#include "sample/sampling_params.h"
#include "sample/token_constraint.h"
#include "sample/token_weights.h"

namespace quipu {

// In the place of a token: none was chosen.
inline constexpr TokenId kNoToken = -1;

class Sampler {
 public:
  // SHAPE: prompt: the request's prompt tokens (the repetition penalty counts them).
  // `constraint`: null for none; at the beginning of the output.
  Sampler(const SamplingParams& params, std::span<const TokenId> prompt,
          std::shared_ptr<TokenConstraint> constraint = nullptr);

  // SHAPE: logits: [vocab_size]. `position`: of the token being chosen. Ties go to the lower id.
  // kNoToken, and then failure(), when the constraint allows none. REQUIRES: not is_complete().
  TokenId sample(std::span<const float> logits, int64_t position);

  // Goes on by a token that was chosen. Called once for each, in order.
  void accept(TokenId token);

  // The constraint lets nothing follow what was accepted.
  bool is_complete() const { return constraint_ != nullptr && constraint_->is_complete(); }
  // Appends guesses of the constraint for the next tokens (token_constraint.h).
  void guess(int tokens_max, std::vector<TokenId>& tokens) const {
    if (constraint_ != nullptr && failure_.ok()) constraint_->guess(tokens_max, tokens);
  }
  bool is_constrained() const { return constraint_ != nullptr; }
  // Why the constraint could not go on; ok while it can.
  const Status& failure() const { return failure_; }

 private:
  struct Candidate {
    TokenId id;
    float logit;
    uint64_t weight;
  };

  bool constrain(std::span<const float> logits);
  bool has_adjustments() const;
  void adjust();
  TokenId choose(std::span<const float> logits, int64_t position);
  void cut_all(std::span<const float> logits);
  Candidate last_of_nucleus(std::span<const float> logits);
  void add_candidate(std::span<const float> logits, size_t id);
  void keep_above_min_p(std::span<const float> logits);
  void keep_largest(std::span<const float> logits, size_t count);
  void cut_candidates();
  uint64_t nucleus(uint64_t total) const;
  uint64_t least_weight() const;
  static bool better(const Candidate& a, const Candidate& b);

  SamplingParams params_;
  // Shared with the request it came with, a value that others may hold copies of.
  std::shared_ptr<TokenConstraint> constraint_;
  Status failure_;
  struct Counts {
    bool in_prompt = false;
    int output = 0;
  };
  std::unordered_map<TokenId, Counts> seen_;
  std::vector<float> adjusted_;        // scratch: logits after constraint, bias, penalties
  float largest_ = 0;                  // scratch: of the logits
  TokenWeights weights_;               // scratch: of all tokens
  std::vector<uint64_t> steps_;        // scratch: sums of weights by steps of the logit
  std::vector<Candidate> candidates_;  // scratch
};

}  // namespace quipu
