#include "sample/token_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace quipu {

namespace {

// A plain loop that a compiler turns into vectors.
// SOURCE: e^r on [-ln 2 / 2, ln 2 / 2], degree 5 of the form 1 + r + r^2 q(r), fitted for least
// error (1e-7), as in backend/cpu/kernels_math.inc.
void weights_of(const float* logits, size_t count, float largest, float scale, float* out) {
  constexpr float kLowest = -27.7f;        // 2^-40
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  for (size_t i = 0; i < count; ++i) {
    const float x = (logits[i] - largest) * scale;
    const float bounded = x > kLowest ? x : kLowest;  // of a NaN, too
    const float n = (bounded * 1.44269504f + kRounder) - kRounder;
    const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    float q = 0.0013814467238262296f;
    q = q * r + 0.008368780836462975f;
    q = q * r + 0.04166839271783829f;
    q = q * r + 0.1666651964187622f;
    q = q * r + 0.4999999403953552f;
    const float value = (r * r * q + r) + 1.0f;
    const auto power = std::bit_cast<float>((static_cast<int32_t>(n) + 127 + 40) << 23);
    const float weight = x > kLowest ? value * power : 0.0f;
    out[i] = logits[i] == largest ? static_cast<float>(TokenWeights::kOne) : weight;
  }
}

}  // namespace

size_t first_largest(std::span<const float> values) {
  size_t best = 0;
  while (std::isnan(values[best]) && best + 1 < values.size()) ++best;
  float largest = values[best];
  for_each_above(values, best + 1, largest, [&](size_t id) { largest = values[best = id]; });
  return best;
}

uint64_t TokenWeights::weight(float logit, float largest, float temperature) {
  float weight;
  weights_of(&logit, 1, largest, 1.0f / temperature, &weight);
  return whole(weight);
}

void TokenWeights::compute(std::span<const float> logits, float largest, float temperature) {
  weights_.resize(logits.size());
  weights_of(logits.data(), logits.size(), largest, 1.0f / temperature, weights_.data());
  add_up();
}

void TokenWeights::add_up() {
  sums_.clear();
  total_ = 0;
  for (size_t first = 0; first < weights_.size(); first += kRun) {
    const size_t last = std::min(first + kRun, weights_.size());
    uint64_t sum = 0;
    for (size_t id = first; id < last; ++id) sum += (*this)[id];
    sums_.push_back(sum);
    total_ += sum;
  }
}

size_t TokenWeights::find(uint64_t target) const {
  QUIPU_CHECK(target < total_, "weight {} of {}", target, total_);
  size_t run = 0;
  for (; target >= sums_[run]; ++run) target -= sums_[run];
  size_t id = run * kRun;
  for (; target >= (*this)[id]; ++id) target -= (*this)[id];
  return id;
}

}  // namespace quipu
