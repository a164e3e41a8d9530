#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace quipu {

namespace {

// The (fractional) dimension pair whose wave turns `rotations` times within the original context.
// SOURCE: Peng et al. 2023 (YaRN), equation 17 solved for the dimension.
double correction_dim(const RopeConfig& config, double rotations) {
  const double context = static_cast<double>(config.original_context);
  return config.dims * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.theta));
}

void apply_yarn(const RopeConfig& config, RopeFrequencies& rope) {
  double low = correction_dim(config, config.beta_fast);
  double high = correction_dim(config, config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, config.dims - 1.0);
  if (low == high) high += 0.001;  // the ramp must not divide by zero
  for (size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double extrapolated = rope.frequencies[i];
    rope.frequencies[i] =
        static_cast<float>(extrapolated / config.factor * ramp + extrapolated * (1 - ramp));
  }
  if (config.factor > 1) rope.magnitude = static_cast<float>(1 + 0.1 * std::log(config.factor));
}

}  // namespace

RopeFrequencies make_rope_frequencies(const RopeConfig& config, std::span<const float> factors) {
  const size_t pairs = static_cast<size_t>(config.dims / 2);
  QUIPU_CHECK(factors.empty() || factors.size() == pairs, "{} rope factors for {} pairs",
              factors.size(), pairs);
  RopeFrequencies rope;
  rope.frequencies.resize(pairs);
  for (size_t i = 0; i < pairs; ++i) {
    double frequency = std::pow(config.theta, -2.0 * static_cast<double>(i) / config.dims);
    if (config.scaling == RopeScaling::kLinear) frequency /= config.factor;
    if (!factors.empty()) frequency /= static_cast<double>(factors[i]);
    rope.frequencies[i] = static_cast<float>(frequency);
  }
  if (config.scaling == RopeScaling::kYarn) apply_yarn(config, rope);
  rope.magnitude *= static_cast<float>(config.attention_factor);
  return rope;
}

void fill_rope_table(const RopeFrequencies& rope, std::span<const int32_t> positions,
                     int64_t context, float* out) {
  for (const int32_t position : positions) {
    for (const float frequency : rope.frequencies) {
      const double angle = position < context
                               ? static_cast<double>(static_cast<float>(position) * frequency)
                               : static_cast<double>(position) * static_cast<double>(frequency);
      *out++ = static_cast<float>(std::cos(angle)) * rope.magnitude;
      *out++ = static_cast<float>(std::sin(angle)) * rope.magnitude;
    }
  }
}

}  // namespace quipu
