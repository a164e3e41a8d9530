// ServingMetrics: what the engine thread counts while it serves. Plain data; names and text forms
// are the server's business. THREADS: written by the engine thread; others get copies.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace quipu {

// Counts of observations in ranges: counts[i] holds those <= bounds[i] and above the bound before;
// the last one holds the rest. SHAPE: counts: [bounds + 1].
class Histogram {
 public:
  // OWNS: nothing; the bounds must live for ever. REQUIRES: ascending.
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds), counts_(bounds.size() + 1, 0) {}

  void observe(double value) {
    const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value);
    ++counts_[static_cast<size_t>(at - bounds_.begin())];
    sum_ += value;
    ++total_;
  }

  std::span<const double> bounds() const { return bounds_; }
  std::span<const uint64_t> counts() const { return counts_; }
  double sum() const { return sum_; }
  uint64_t total() const { return total_; }

 private:
  std::span<const double> bounds_;
  std::vector<uint64_t> counts_;
  double sum_ = 0;
  uint64_t total_ = 0;
};

// The ranges are those of vLLM, so that dashboards made for it can be read with the same eyes.
inline constexpr double kFirstTokenBounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08,
                                               0.1,   0.25,  0.5,  0.75, 1,    2.5,  5,
                                               7.5,   10,    20,   40,   80,   160};
inline constexpr double kBetweenTokensBounds[] = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5};
inline constexpr double kRequestBounds[] = {0.05, 0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,
                                            10,   15,  20,  30,  40,  50, 60,  120, 240, 480};
inline constexpr double kTokensBounds[] = {1,   2,    5,    10,   20,    50,    100,   200,
                                           500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
inline constexpr double kBatchBounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};

struct ServingMetrics {
  // UNITS: seconds.
  Histogram time_to_first_token{kFirstTokenBounds};  // from submit() on
  Histogram time_between_tokens{kBetweenTokensBounds};
  Histogram request_time{kRequestBounds};  // from submit() to the end
  Histogram queue_time{kRequestBounds};    // from submit() to the first step
  Histogram step_time{kBetweenTokensBounds};
  // UNITS: tokens of one request; sequences of one step.
  Histogram prompt_tokens{kTokensBounds};
  Histogram generation_tokens{kTokensBounds};
  Histogram batch_sequences{kBatchBounds};

  // By finish reason, indexed by FinishReason; `refused` never reached the engine.
  std::array<uint64_t, kFinishReasons> finished{};
  // Of those with FinishReason::kDeadline, the ones that had not been computed at all.
  uint64_t late_while_waiting = 0;
  uint64_t refused = 0;
  uint64_t preemptions = 0;
  uint64_t prompt_tokens_total = 0;
  uint64_t prompt_tokens_cached_total = 0;
  uint64_t generation_tokens_total = 0;
};

}  // namespace quipu
