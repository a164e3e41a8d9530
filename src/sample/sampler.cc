#include "sample/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/random.h"

namespace quipu {

Status SamplingParams::validate() const {
  const auto check = [](const char* name, float value, float low, float high) {
    if (value >= low && value <= high) return Status::ok_status();  // false for NaN
    return make_error(ErrorCode::kInvalidArgument, "{} is {}; expected {} to {}", name, value, low,
                      high);
  };
  QUIPU_RETURN_IF_ERROR(check("temperature", temperature, 0, 100));
  QUIPU_RETURN_IF_ERROR(check("top_p", top_p, 0, 1));
  QUIPU_RETURN_IF_ERROR(check("min_p", min_p, 0, 1));
  QUIPU_RETURN_IF_ERROR(check("repetition_penalty", repetition_penalty, 0.01f, 100));
  QUIPU_RETURN_IF_ERROR(check("presence_penalty", presence_penalty, -100, 100));
  QUIPU_RETURN_IF_ERROR(check("frequency_penalty", frequency_penalty, -100, 100));
  if (top_k < 0)
    return make_error(ErrorCode::kInvalidArgument, "top_k is {}; expected 0 (all) or more", top_k);
  for (const auto& [id, bias] : logit_bias) {
    QUIPU_RETURN_IF_ERROR(check("logit_bias", bias, -1e9f, 1e9f));
    if (id < 0)
      return make_error(ErrorCode::kInvalidArgument,
                        "logit_bias has token id {}; expected 0 or more", id);
  }
  return Status::ok_status();
}

Sampler::Sampler(const SamplingParams& params, std::span<const TokenId> prompt,
                 std::shared_ptr<TokenConstraint> constraint)
    : params_(params), constraint_(std::move(constraint)) {
  if (params_.repetition_penalty != 1.0f) {
    for (const TokenId token : prompt) seen_[token].in_prompt = true;
  }
}

void Sampler::accept(TokenId token) {
  if (params_.repetition_penalty != 1.0f || params_.presence_penalty != 0 ||
      params_.frequency_penalty != 0) {
    ++seen_[token].output;
  }
  if (constraint_ == nullptr || is_complete() || !failure_.ok()) return;
  if (Status status = constraint_->accept(token); !status.ok()) failure_ = std::move(status);
}

// The logits with minus infinity in the place of what the constraint does not allow. False: it
// failed.
bool Sampler::constrain(std::span<const float> logits) {
  if (!failure_.ok()) return false;
  Result<std::span<const uint32_t>> allowed = constraint_->allowed();
  if (!allowed.ok()) {
    failure_ = allowed.status();
    return false;
  }
  adjusted_.assign(logits.size(), -INFINITY);
  bool any = false;
  for (size_t word = 0; word < allowed->size(); ++word) {
    for (uint32_t bits = (*allowed)[word]; bits != 0; bits &= bits - 1) {
      const size_t id = word * 32 + static_cast<size_t>(std::countr_zero(bits));
      if (id >= logits.size()) break;
      // What is no number, or none that any cut would keep, is still the last to be chosen.
      constexpr float kLeast = -1e30f;
      adjusted_[id] = logits[id] > kLeast ? logits[id] : kLeast;
      any = true;
    }
  }
  if (!any) {
    failure_ = make_error(ErrorCode::kResourceExhausted,
                          "nothing that the model's vocabulary has may follow");
  }
  return any;
}

bool Sampler::has_adjustments() const { return !params_.logit_bias.empty() || !seen_.empty(); }

void Sampler::adjust() {
  const auto vocab = static_cast<TokenId>(adjusted_.size());
  for (const auto& [id, bias] : params_.logit_bias) {
    if (id < vocab) adjusted_[static_cast<size_t>(id)] += bias;
  }
  for (const auto& [id, counts] : seen_) {
    if (id < 0 || id >= vocab) continue;
    float& logit = adjusted_[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    if (counts.output > 0) {
      logit -=
          params_.presence_penalty + params_.frequency_penalty * static_cast<float>(counts.output);
    }
  }
}

TokenId Sampler::sample(std::span<const float> logits, int64_t position) {
  QUIPU_CHECK(!logits.empty(), "no logits");
  if (constraint_ == nullptr && !has_adjustments()) return choose(logits, position);
  if (constraint_ != nullptr) {
    QUIPU_CHECK(!is_complete(), "the output is complete");
    if (!constrain(logits)) return kNoToken;
  } else {
    adjusted_.assign(logits.begin(), logits.end());
  }
  if (has_adjustments()) adjust();
  return choose(adjusted_, position);
}

TokenId Sampler::choose(std::span<const float> logits, int64_t position) {
  if (params_.greedy()) {
    size_t best = 0;
    for (size_t id = 1; id < logits.size(); ++id) {
      if (logits[id] > logits[best] || std::isnan(logits[best])) best = id;
    }
    return static_cast<TokenId>(best);
  }
  keep_likely(logits);
  cut_top_k();
  cut_top_p_and_min_p();
  double total = 0;
  for (const double p : probabilities_) total += p;
  const double target = uniform_at(params_.seed, static_cast<uint64_t>(position), 0) * total;
  double sum = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    sum += probabilities_[i];
    if (target < sum) return candidates_[i].id;
  }
  return candidates_.back().id;
}

// Candidates and their probabilities (relative to the best), best first. Tokens that no cut could
// keep are left out before sorting: with top-p, those below (1 - top_p) / vocabulary of the mass
// cannot reach the nucleus even all together.
void Sampler::keep_likely(std::span<const float> logits) {
  // Room for every token at the first draw: how many survive the cuts changes from step to step.
  candidates_.reserve(logits.size());
  probabilities_.reserve(logits.size());
  candidates_.clear();
  float best = -INFINITY;
  for (const float logit : logits) best = logit > best ? logit : best;
  const double scale = 1.0 / static_cast<double>(params_.temperature);
  const auto relative = [&](float logit) {
    return std::exp((static_cast<double>(logit) - best) * scale);
  };
  double floor = 0;
  mass_ = 0;
  if (params_.top_p == 1.0f) {
    floor = params_.min_p;
  } else if (params_.top_k == 0) {
    for (const float logit : logits) {
      if (logit > -INFINITY) mass_ += relative(logit);
    }
    floor = (1.0 - static_cast<double>(params_.top_p)) * mass_ /
            static_cast<double>(logits.size()) * 0.999;
  }
  // exp is monotonic: compare logits with the floor's logarithm instead of taking it for every
  // token.
  const double lowest =
      floor > 0 ? best + std::log(floor) / scale - 1e-4 * std::abs(static_cast<double>(best)) - 1e-4
                : -INFINITY;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] >= lowest && logits[id] > -INFINITY)
      candidates_.push_back({static_cast<TokenId>(id), logits[id]});
  }
  if (candidates_.empty())
    candidates_.push_back({0, 0});  // all NaN or -inf: something must be returned
}

void Sampler::cut_top_k() {
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const size_t k = params_.top_k > 0
                       ? std::min<size_t>(static_cast<size_t>(params_.top_k), candidates_.size())
                       : candidates_.size();
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(k),
                    candidates_.end(), better);
  candidates_.resize(k);
  const double scale = 1.0 / static_cast<double>(params_.temperature);
  probabilities_.clear();
  for (const Candidate& candidate : candidates_) {
    probabilities_.push_back(
        std::exp((static_cast<double>(candidate.logit) - candidates_.front().logit) * scale));
  }
}

void Sampler::cut_top_p_and_min_p() {
  size_t keep = candidates_.size();
  if (params_.top_p < 1.0f) {
    double total = mass_, sum = 0;
    if (params_.top_k > 0) {
      total = 0;
      for (const double p : probabilities_) total += p;
    }
    for (keep = 0; keep < candidates_.size();) {
      sum += probabilities_[keep++];
      if (sum >= static_cast<double>(params_.top_p) * total) break;
    }
  }
  while (keep > 1 && probabilities_[keep - 1] < static_cast<double>(params_.min_p)) --keep;
  candidates_.resize(keep);
  probabilities_.resize(keep);
}

}  // namespace quipu
