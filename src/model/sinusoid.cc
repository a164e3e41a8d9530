#include "model/sinusoid.h"

#include <cmath>

#include "base/check.h"

namespace quipu {

std::vector<float> make_sinusoid_table(const SinusoidConfig& config, int64_t positions, int width) {
  QUIPU_CHECK(width >= 4 && width % 2 == 0, "sinusoids of width {}", width);
  const auto half = static_cast<size_t>(width / 2), row = static_cast<size_t>(width);
  const bool inclusive = config.frequencies == SinusoidConfig::Frequencies::kInclusive;
  const bool halves = config.layout == SinusoidConfig::Layout::kHalves;
  const double steps = static_cast<double>(inclusive ? half - 1 : half);
  std::vector<float> table(static_cast<size_t>(positions) * row);
  for (size_t i = 0; i < half; ++i) {
    const double frequency = std::pow(10000.0, -static_cast<double>(i) / steps);
    const size_t sine = halves ? i : 2 * i, cosine = halves ? half + i : 2 * i + 1;
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p + config.first_position) * frequency;
      float* values = table.data() + static_cast<size_t>(p) * row;
      values[sine] = static_cast<float>(std::sin(angle));
      values[cosine] = static_cast<float>(std::cos(angle));
    }
  }
  return table;
}

}  // namespace quipu
