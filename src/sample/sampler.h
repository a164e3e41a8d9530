// Sampler: logits of one position -> one token id.
//
// Order: logit bias, repetition / presence / frequency penalties, temperature, top-k, top-p, min-p,
// draw. Top-p counts the probabilities left after top-k; min-p is relative to the best token.
// The draw depends on (seed, position) only, so a request gives the same text alone or in a batch,
// before and after a preemption (architecture.md, determinism contract, rule 4).
// THREADS: thread-compatible; one per sequence. A steady state allocates nothing.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/strong_id.h"
#include "sample/sampling_params.h"

namespace quipu {

class Sampler {
 public:
  // SHAPE: prompt: the request's prompt tokens (the repetition penalty counts them).
  Sampler(const SamplingParams& params, std::span<const TokenId> prompt);

  // SHAPE: logits: [vocab_size]. `position`: of the token being chosen. Ties go to the lower id.
  TokenId sample(std::span<const float> logits, int64_t position);

  // Counts a token as part of the output. Called once for each token that was kept.
  void accept(TokenId token);

 private:
  struct Candidate {
    TokenId id;
    float logit;
  };

  bool has_adjustments() const;
  void adjust(std::span<const float> logits);
  void keep_likely(std::span<const float> logits);
  void cut_top_k();
  void cut_top_p_and_min_p();

  SamplingParams params_;
  struct Counts {
    bool in_prompt = false;
    int output = 0;
  };
  std::unordered_map<TokenId, Counts> seen_;
  std::vector<float> adjusted_;        // scratch: logits after bias and penalties
  std::vector<Candidate> candidates_;  // scratch
  std::vector<double> probabilities_;  // scratch: of candidates_, relative to the best
  double mass_ = 0;                    // scratch: of all tokens, when top-p counts them all
};

}  // namespace quipu
