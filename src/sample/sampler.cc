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
  const size_t best = first_largest(logits);
  if (params_.greedy()) return static_cast<TokenId>(best);
  largest_ = logits[best];
  // Beside an infinite one nothing has weight; where none is a number, something must be returned.
  if (!std::isfinite(largest_)) return largest_ > 0 ? static_cast<TokenId>(best) : 0;
  const double at = uniform_at(params_.seed, static_cast<uint64_t>(position), 0);
  const auto target = [&](uint64_t total) {
    return std::min(static_cast<uint64_t>(at * static_cast<double>(total)), total - 1);
  };
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < logits.size()) {
    keep_largest(logits, static_cast<size_t>(params_.top_k));
    cut_candidates();
  } else if (params_.top_p == 1.0f && params_.min_p > 0) {
    keep_above_min_p(logits);
  } else {
    weights_.compute(logits, largest_, params_.temperature);
    if (params_.top_p < 1.0f) cut_all(logits);
    return static_cast<TokenId>(weights_.find(target(weights_.total())));
  }
  uint64_t total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  uint64_t left = target(total);
  size_t i = 0;
  for (; left >= candidates_[i].weight; ++i) left -= candidates_[i].weight;
  return candidates_[i].id;
}

bool Sampler::better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// How much of `total` top-p wants to have.
uint64_t Sampler::nucleus(uint64_t total) const {
  const double wanted = static_cast<double>(params_.top_p) * static_cast<double>(total);
  return std::clamp<uint64_t>(static_cast<uint64_t>(std::ceil(wanted)), 1, total);
}

uint64_t Sampler::least_weight() const {
  return static_cast<uint64_t>(static_cast<double>(params_.min_p) *
                               static_cast<double>(TokenWeights::kOne));
}

// Top-p and min-p among all tokens: those that they leave keep their weights.
void Sampler::cut_all(std::span<const float> logits) {
  const uint64_t least = least_weight();
  const Candidate last = last_of_nucleus(logits);
  weights_.keep_only([&](size_t id) {
    const bool in_nucleus =
        logits[id] != last.logit ? logits[id] > last.logit : static_cast<TokenId>(id) <= last.id;
    return in_nucleus && weights_[id] >= least;
  });
}

// The last token, best first, that top-p needs. Weights are counted by steps of the logit; only
// those of one step are put in order.
Sampler::Candidate Sampler::last_of_nucleus(std::span<const float> logits) {
  constexpr size_t kSteps = 1024;
  constexpr float kStepsPerNat = 32;  // what has weight lies within 28 nats
  const float scale = kStepsPerNat / params_.temperature;
  const auto step_of = [&](float logit) {
    return logit == largest_ ? size_t{0} : static_cast<size_t>((largest_ - logit) * scale);
  };
  steps_.assign(kSteps, 0);
  for (size_t id = 0; id < logits.size(); ++id) {
    if (const uint64_t weight = weights_[id]; weight > 0) steps_[step_of(logits[id])] += weight;
  }
  uint64_t left = nucleus(weights_.total());
  size_t step = 0;
  for (; left > steps_[step]; ++step) left -= steps_[step];
  candidates_.clear();
  candidates_.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    const uint64_t weight = weights_[id];
    if (weight > 0 && step_of(logits[id]) == step)
      candidates_.push_back({static_cast<TokenId>(id), logits[id], weight});
  }
  // Halves, by rank, until few are left.
  auto first = candidates_.begin(), last = candidates_.end();
  while (last - first > 32) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, better);
    uint64_t sum = 0;
    for (auto i = first; i != middle; ++i) sum += i->weight;
    if (sum >= left) {
      last = middle;
    } else {
      left -= sum;
      first = middle;
    }
  }
  std::sort(first, last, better);
  for (; left > first->weight; ++first) left -= first->weight;
  return *first;
}

void Sampler::add_candidate(std::span<const float> logits, size_t id) {
  candidates_.push_back({static_cast<TokenId>(id), logits[id],
                         TokenWeights::weight(logits[id], largest_, params_.temperature)});
}

// Candidates: the `count` largest, best first.
void Sampler::keep_largest(std::span<const float> logits, size_t count) {
  const size_t room = 2 * count + 64;
  candidates_.clear();
  candidates_.reserve(room);
  float least = -INFINITY;
  const auto keep_best = [&] {
    if (candidates_.size() <= count) return;
    const auto last = candidates_.begin() + static_cast<ptrdiff_t>(count) - 1;
    std::nth_element(candidates_.begin(), last, candidates_.end(), better);
    candidates_.resize(count);
    least = candidates_.back().logit;  // later equals come after it
  };
  for_each_above(logits, 0, least, [&](size_t id) {
    add_candidate(logits, id);
    if (candidates_.size() == room) keep_best();
  });
  keep_best();
  std::sort(candidates_.begin(), candidates_.end(), better);
}

// Candidates: all whose weight is large enough, by id.
void Sampler::keep_above_min_p(std::span<const float> logits) {
  const uint64_t least = least_weight();
  // A little less than what min-p allows: the weight decides.
  const double allowed = static_cast<double>(params_.temperature) * std::log(params_.min_p);
  const double slack = 1e-3 * (std::abs(allowed) + std::abs(static_cast<double>(largest_)) + 1);
  const auto lowest = static_cast<float>(largest_ + allowed - slack);
  candidates_.clear();
  candidates_.reserve(logits.size());  // how many there are changes from step to step
  for_each_above(logits, 0, lowest, [&](size_t id) {
    add_candidate(logits, id);
    if (candidates_.back().weight < least || candidates_.back().weight == 0) candidates_.pop_back();
  });
}

// Top-p and min-p among candidates.
void Sampler::cut_candidates() {
  size_t keep = candidates_.size();
  if (params_.top_p < 1.0f) {
    uint64_t total = 0;
    for (const Candidate& candidate : candidates_) total += candidate.weight;
    uint64_t left = nucleus(total);
    for (keep = 0; left > candidates_[keep].weight; ++keep) left -= candidates_[keep].weight;
    ++keep;
  }
  const uint64_t least = least_weight();
  while (candidates_[keep - 1].weight < least) --keep;  // the best has no less
  candidates_.resize(keep);
}

}  // namespace quipu
