#include "kv/reuse_policy.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace quipu {

namespace {

// 2^26 ns, about 67 ms.
constexpr int kFirstEdgeBits = 26;
// The prior: as if so many blocks had been seen, of which alpha * (1 + times found) / (60 s + age)
// return per second at an age (Lomax's law).
constexpr double kPriorBlocks = 50;
constexpr double kPriorAlpha = 0.1;
constexpr double kPriorScaleS = 60;
// Rates are computed anew after so many changes of a class; all counts are halved when a class has
// seen so many blocks, so that old habits fade.
constexpr int kChangesMax = 256;
constexpr double kWaitsMax = 1 << 18;

}  // namespace

ReusePolicy::ReusePolicy() : classes_(kQueues) {
  edges_s_[0] = 0;
  for (int i = 1; i <= kBuckets; ++i) {
    const int quarters = (i - 1) % 4, doublings = (i - 1) / 4;
    edges_s_[static_cast<size_t>(i)] =
        std::ldexp(1 + quarters / 4.0, kFirstEdgeBits + doublings) * 1e-9;
  }
  for (int queue = 0; queue < kQueues; ++queue) compute_rates(queue);
}

int ReusePolicy::queue_of(const NodeUse& use) const {
  const int hits = std::min(use.hits, kHitClasses - 1);
  const auto thousands = static_cast<uint64_t>(use.position / 1024);
  const int depth = std::min(static_cast<int>(std::bit_width(thousands)), kPositionClasses - 1);
  return hits * kPositionClasses + depth;
}

int ReusePolicy::bucket_of(int64_t age_ns) {
  if (age_ns < (int64_t{1} << kFirstEdgeBits)) return 0;
  // The two bits after the highest one say in which quarter of a doubling the age lies.
  const int doublings = static_cast<int>(std::bit_width(static_cast<uint64_t>(age_ns))) - 1;
  const auto quarters = static_cast<int>((age_ns >> (doublings - 2)) & 3);
  return std::min(1 + 4 * (doublings - kFirstEdgeBits) + quarters, kBuckets - 1);
}

double ReusePolicy::worth_now(int queue, double worth, int64_t now_ns) {
  const auto age_ns = static_cast<int64_t>(static_cast<double>(now_ns) - worth * 1e3);
  return classes_[static_cast<size_t>(queue)].rate[static_cast<size_t>(bucket_of(age_ns))];
}

void ReusePolicy::waits(int queue) {
  Class& c = classes_[static_cast<size_t>(queue)];
  ++c.waits;
  if (c.waits > kWaitsMax) {
    c.waits /= 2;
    for (double& returns : c.returns) returns /= 2;
  }
  if (++c.changes >= kChangesMax) compute_rates(queue);
}

void ReusePolicy::returned(int queue, int64_t age_ns) {
  Class& c = classes_[static_cast<size_t>(queue)];
  ++c.returns[static_cast<size_t>(bucket_of(age_ns))];
  if (++c.changes >= kChangesMax) compute_rates(queue);
}

void ReusePolicy::compute_rates(int queue) {
  Class& c = classes_[static_cast<size_t>(queue)];
  c.changes = 0;
  const double alpha = kPriorAlpha * (1 + queue / kPositionClasses);
  // The chance to return in a bucket, for those who waited up to it.
  std::array<double, kBuckets> chance;
  double waiting = c.waits;
  for (size_t i = 0; i < kBuckets; ++i) {
    const double prior =
        1 - std::pow((kPriorScaleS + edges_s_[i]) / (kPriorScaleS + edges_s_[i + 1]), alpha);
    chance[i] = std::min(0.95, (c.returns[i] + kPriorBlocks * prior) / (waiting + kPriorBlocks));
    waiting = std::max(0.0, waiting - c.returns[i]);
  }
  for (size_t age = 0; age < kBuckets; ++age) {
    double waits = 1, returns = 0, seconds = 0, best = 0;
    for (size_t i = age; i < kBuckets; ++i) {
      returns += waits * chance[i];
      // Who returns in a bucket does so halfway through, on average.
      seconds += waits * (1 - chance[i] / 2) * (edges_s_[i + 1] - edges_s_[i]);
      waits *= 1 - chance[i];
      best = std::max(best, returns / seconds);
    }
    c.rate[age] = best;
  }
}

}  // namespace quipu
