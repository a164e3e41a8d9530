#include "app/perplexity.h"

#include <algorithm>
#include <cmath>

namespace quipu {

namespace {

constexpr size_t kBuckets = 16;

// -ln softmax(logits)[token], in double.
double negative_log_likelihood(std::span<const float> logits, TokenId token) {
  double best = -INFINITY;
  for (const float logit : logits) best = std::max(best, static_cast<double>(logit));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - best);
  return std::log(sum) + best - static_cast<double>(logits[static_cast<size_t>(token)]);
}

}  // namespace

double PerplexityResult::perplexity() const {
  return scored_tokens == 0 ? 0 : std::exp(nll_sum / static_cast<double>(scored_tokens));
}

Result<PerplexityResult> measure_perplexity(LoadedModel& model, std::span<const TokenId> tokens,
                                            const PerplexityOptions& options,
                                            const PerplexityProgress& progress) {
  const int64_t limit = model.engine->scheduler().token_limit();
  // Streaming has no context to fill: the whole text is one window.
  const int64_t context = model.engine->is_streaming()
                              ? std::min(limit, static_cast<int64_t>(tokens.size()) + 1)
                              : limit;
  const int64_t window = options.window == 0 ? context : options.window;
  if (window < 2 || window > limit) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a window of {} tokens was asked for; expected 2 to {}", window, limit);
  }
  if (tokens.size() < 2)
    return make_error(ErrorCode::kInvalidArgument, "the text has {} tokens; at least 2 are needed",
                      tokens.size());
  const int64_t step = window - (options.bos.has_value() ? 1 : 0);
  const int64_t windows_all = (static_cast<int64_t>(tokens.size()) + step - 1) / step;
  const int64_t windows_total =
      options.windows_max > 0 ? std::min(options.windows_max, windows_all) : windows_all;

  PerplexityResult result;
  result.nll_by_bucket.assign(kBuckets, 0);
  result.tokens_by_bucket.assign(kBuckets, 0);
  const int64_t begin_ns = model.clock.now_ns();
  for (int64_t index = 0; index < windows_total; ++index) {
    const std::span<const TokenId> part = tokens.subspan(
        static_cast<size_t>(index * step),
        std::min(static_cast<size_t>(step), tokens.size() - static_cast<size_t>(index * step)));
    Request request;
    request.id = RequestId(index + 1);
    const size_t first = options.bos.has_value() ? 1 : 0;
    std::vector<TokenId> prompt(first + part.size(), options.bos.value_or(0));
    std::copy(part.begin(), part.end(), prompt.begin() + static_cast<std::ptrdiff_t>(first));
    if (prompt.size() < 2) break;
    request.prompt = prompt;
    request.logits_wanted = LogitsWanted::kAll;
    request.on_logits = [&](int64_t position, std::span<const float> logits) {
      if (position + 1 >= static_cast<int64_t>(prompt.size())) return;
      const double nll = negative_log_likelihood(logits, prompt[static_cast<size_t>(position + 1)]);
      const size_t bucket =
          static_cast<size_t>((position + 1) * static_cast<int64_t>(kBuckets) / window);
      result.nll_sum += nll;
      ++result.scored_tokens;
      result.nll_by_bucket[bucket] += nll;
      ++result.tokens_by_bucket[bucket];
    };
    QUIPU_RETURN_IF_ERROR(model.engine->submit(std::move(request)));
    while (model.engine->has_work()) model.engine->step();
    model.engine->scheduler().cache().clear();  // windows share nothing worth keeping
    ++result.windows;
    result.seconds = static_cast<double>(model.clock.now_ns() - begin_ns) * 1e-9;
    if (progress && !progress(result, windows_total))
      return make_error(ErrorCode::kCancelled, "interrupted after {} windows", result.windows);
  }
  for (size_t bucket = 0; bucket < kBuckets; ++bucket) {
    if (result.tokens_by_bucket[bucket] > 0)
      result.nll_by_bucket[bucket] /= static_cast<double>(result.tokens_by_bucket[bucket]);
  }
  return result;
}

}  // namespace quipu
