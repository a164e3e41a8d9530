#include "sample/token_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace quipu {
namespace {

TEST(FirstLargest, IsThatOfAPlainLoop) {
  Random random(4);
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> values(1 + random.next_below(200));
    for (float& value : values) {
      value = static_cast<float>(random.next_below(12)) - 6;
      if (value == -6) value = NAN;
      if (value == -5) value = -INFINITY;
    }
    size_t best = 0;
    for (size_t i = 1; i < values.size(); ++i) {
      if (values[i] > values[best] || std::isnan(values[best])) best = i;
    }
    EXPECT_EQ(first_largest(values), best) << round;
  }
}

TEST(TokenWeights, AreExponentialsAndSumsOfThemAreExact) {
  Random random(5);
  std::vector<float> logits(3000);
  for (float& logit : logits) logit = 6 * random.next_normal();
  logits[7] = NAN;
  logits[8] = -INFINITY;
  const float largest = *std::max_element(logits.begin() + 9, logits.end());
  for (const float temperature : {0.1f, 1.0f, 3.0f}) {
    TokenWeights weights;
    weights.compute(logits, largest, temperature);
    uint64_t sum = 0;
    for (size_t id = 0; id < logits.size(); ++id) {
      EXPECT_EQ(weights[id], TokenWeights::weight(logits[id], largest, temperature));
      if (id == 7 || id == 8) {
        EXPECT_EQ(weights[id], 0);
      } else {
        const double exact = std::exp((static_cast<double>(logits[id]) - largest) / temperature);
        EXPECT_NEAR(static_cast<double>(weights[id]) / TokenWeights::kOne, exact,
                    4e-6 * exact + 2e-12);
      }
      if (weights[id] > 0) {
        EXPECT_EQ(weights.find(sum), id);
        EXPECT_EQ(weights.find(sum + weights[id] - 1), id);
      }
      sum += weights[id];
    }
    EXPECT_EQ(weights.total(), sum);
    weights.keep_only([](size_t id) { return id % 2 == 0; });
    EXPECT_EQ(weights[9], 0);
    EXPECT_LT(weights.total(), sum);
  }
}

TEST(TokenWeights, TheBestHasOneWhateverItIs) {
  for (const float largest : {INFINITY, 1e30f, -1e30f, std::numeric_limits<float>::denorm_min()}) {
    EXPECT_EQ(TokenWeights::weight(largest, largest, 0.01f), TokenWeights::kOne);
    EXPECT_EQ(TokenWeights::weight(-INFINITY, largest, 0.01f), 0);
  }
}

}  // namespace
}  // namespace quipu
