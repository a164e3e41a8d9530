// RunningEstimate: a quantity that is measured again and again and changes slowly: a few values
// settle it, and one that something else spoiled (the machine took the core away) moves it little.
// THREADS: thread-compatible.
#pragma once

#include <algorithm>
#include <optional>

namespace quipu {

class RunningEstimate {
 public:
  // `farthest`: how many times as large or small as the estimate a new value may be, and counts as
  // no farther; more for what varies by itself.
  explicit RunningEstimate(double farthest = 2) : farthest_(farthest) {}

  // Nothing before the first observe().
  std::optional<double> value() const { return value_; }

  // REQUIRES: seen > 0.
  void observe(double seen) {
    if (!value_.has_value()) value_ = seen;
    *value_ += kWeight * (std::clamp(seen, *value_ / farthest_, *value_ * farthest_) - *value_);
  }

 private:
  static constexpr double kWeight = 0.25;  // how much of a new value is believed

  double farthest_;
  std::optional<double> value_;
};

}  // namespace quipu
