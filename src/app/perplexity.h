// Perplexity: how well a model predicts given text, over windows of its context.
//
// The tokens are cut into windows that do not overlap. When the tokenizer begins texts with a BOS
// token, each window begins with one and all its tokens are scored; otherwise the first token of a
// window is only context. A last window of fewer than 2 tokens is left out.
// perplexity = exp(mean over scored tokens of -ln p(token | its window before it)).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "app/assemble.h"

namespace quipu {

struct PerplexityOptions {
  int64_t window = 0;          // tokens; 0: the engine's context
  std::optional<TokenId> bos;  // put before each window
  int64_t windows_max = 0;     // 0: all
};

struct PerplexityResult {
  double nll_sum = 0;  // natural logarithm
  int64_t scored_tokens = 0;
  int64_t windows = 0;
  double seconds = 0;
  // Mean negative log-likelihood by position in the window, in buckets of a sixteenth of it.
  std::vector<double> nll_by_bucket;
  std::vector<int64_t> tokens_by_bucket;

  double perplexity() const;
};

using PerplexityProgress =
    std::function<bool(const PerplexityResult& so_far, int64_t windows_total)>;

// ERRORS: kInvalidArgument (fewer than 2 tokens, a window larger than the context), kCancelled when
// the progress callback says false.
Result<PerplexityResult> measure_perplexity(LoadedModel& model, std::span<const TokenId> tokens,
                                            const PerplexityOptions& options,
                                            const PerplexityProgress& progress);

}  // namespace quipu
