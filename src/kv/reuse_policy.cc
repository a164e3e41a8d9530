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
  for (size_t hits = 0; hits < kHitClasses; ++hits) {
    const double alpha = kPriorAlpha * (1 + static_cast<double>(hits));
    for (size_t i = 0; i < kBuckets; ++i) {
      prior_[hits][i] =
          1 - std::pow((kPriorScaleS + edges_s_[i]) / (kPriorScaleS + edges_s_[i + 1]), alpha);
    }
  }
  for (int queue = 0; queue < kQueues; ++queue) update_chances(queue);
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
  const auto age = static_cast<size_t>(bucket_of(age_ns));
  Class& c = classes_[static_cast<size_t>(queue)];
  if (!c.has_rate[age]) {
    c.rate[age] = rate_from(c, age);
    c.has_rate[age] = true;
  }
  return c.rate[age];
}

void ReusePolicy::waits(int queue) {
  Class& c = classes_[static_cast<size_t>(queue)];
  ++c.waits;
  if (c.waits > kWaitsMax) {
    c.waits /= 2;
    for (double& returns : c.returns) returns /= 2;
  }
  count_change(queue);
}

void ReusePolicy::returned(int queue, int64_t age_ns) {
  ++classes_[static_cast<size_t>(queue)].returns[static_cast<size_t>(bucket_of(age_ns))];
  count_change(queue);
}

void ReusePolicy::count_change(int queue) {
  if (++classes_[static_cast<size_t>(queue)].changes >= kChangesMax) update_chances(queue);
}

void ReusePolicy::update_chances(int queue) {
  Class& c = classes_[static_cast<size_t>(queue)];
  c.changes = 0;
  c.has_rate.reset();
  ++updates_;
  const std::array<double, kBuckets>& prior = prior_[static_cast<size_t>(queue / kPositionClasses)];
  double waiting = c.waits;
  for (size_t i = 0; i < kBuckets; ++i) {
    c.chance[i] =
        std::min(0.95, (c.returns[i] + kPriorBlocks * prior[i]) / (waiting + kPriorBlocks));
    waiting = std::max(0.0, waiting - c.returns[i]);
  }
}

double ReusePolicy::rate_from(const Class& c, size_t age) const {
  double waits = 1, returns = 0, seconds = 0, best = 0;
  for (size_t i = age; i < kBuckets; ++i) {
    returns += waits * c.chance[i];
    // Who returns in a bucket does so halfway through, on average.
    seconds += waits * (1 - c.chance[i] / 2) * (edges_s_[i + 1] - edges_s_[i]);
    waits *= 1 - c.chance[i];
    best = std::max(best, returns / seconds);
  }
  return best;
}

}  // namespace quipu
