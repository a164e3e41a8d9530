// KvCostModel: whether it is quicker to bring blocks back from a tier or to compute them again.
//
// Both rates are measured where the work is done and smoothed here; the answer is a function of the
// measurements alone. It decides when something is ready, never what its bits are.
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <optional>

namespace quipu {

class KvCostModel {
 public:
  // REQUIRES: positive amounts.
  void measured_restore(uint64_t bytes, int64_t ns) {
    smooth(restore_ns_per_byte_, static_cast<double>(ns) / static_cast<double>(bytes));
  }
  void measured_recompute(int64_t tokens, int64_t ns) {
    smooth(recompute_ns_per_token_, static_cast<double>(ns) / static_cast<double>(tokens));
  }

  // Before both were measured: restoring, which needs 1 MB/s to win for a model of 8 billion
  // parameters on two cores (architecture of the tiers, docs/KV_CACHE.md).
  bool restoring_is_cheaper(int64_t tokens, uint64_t bytes) const {
    if (!restore_ns_per_byte_.has_value() || !recompute_ns_per_token_.has_value()) return true;
    return *restore_ns_per_byte_ * static_cast<double>(bytes) <
           *recompute_ns_per_token_ * static_cast<double>(tokens);
  }

  std::optional<double> restore_ns_per_byte() const { return restore_ns_per_byte_; }
  std::optional<double> recompute_ns_per_token() const { return recompute_ns_per_token_; }

 private:
  static void smooth(std::optional<double>& rate, double measured) {
    constexpr double kWeightOfNew = 0.2;
    rate = rate.has_value() ? *rate + kWeightOfNew * (measured - *rate) : measured;
  }

  std::optional<double> restore_ns_per_byte_, recompute_ns_per_token_;
};

}  // namespace quipu
