// ReusePolicy: keeps the blocks that will be wanted again soonest, as far as the past can tell.
//
// A turn of a conversation comes back after the time that a person or a tool takes to answer:
// seldom at once, often after a minute, hardly ever after an hour. The least recently used block is
// then not the least useful one; when the cache holds less than a minute of traffic, it is the one
// about to be wanted. So the policy learns, for classes of blocks (how often found again, how deep
// in the prompt), how many return after which time, and ranks a block of age a by
//
//                 expected returns between a and T
//   worth = max  ----------------------------------
//           T>a    expected time kept until then
//
// the best rate of hits per second of occupied room that keeping it can bring. Evicting the least
// rate first is the index rule for such choices. The rate rises before the usual return and falls
// after it, so the least worthy block of a class is its oldest or its newest.
//
// Until enough was seen, a prior stands in that falls with age: least recently used first, and what
// was found again outlives what was not. Returns of blocks that were evicted before they were
// wanted count too (the index remembers their keys for a while); without them a cache that is too
// small would never learn what it misses.
// SOURCE: Gittins 1979 (index of a job of unknown length); Beckmann, Chen, Cidon 2018 (hit density,
// for ages seen inside the cache only); the classes are ours, chosen on one trace and checked on
// others (docs/SIMULATE.md). THREADS: engine thread only.
#pragma once

#include <array>
#include <bitset>
#include <vector>

#include "kv/eviction_policy.h"

namespace quipu {

class ReusePolicy : public EvictionPolicy {
 public:
  ReusePolicy();

  std::string_view name() const override { return "reuse"; }
  int num_queues() const override { return kQueues; }
  int queue_of(const NodeUse& use) const override;
  // UNITS: microseconds of the clock.
  double worth(const NodeUse& use) override { return static_cast<double>(use.time_ns) * 1e-3; }
  double worth_now(int queue, double worth, int64_t now_ns) override;
  int64_t version() const override { return updates_; }
  bool considers_both_ends() const override { return true; }
  void waits(int queue) override;
  void returned(int queue, int64_t age_ns) override;

 private:
  static constexpr int kHitClasses = 5;       // 0, 1, 2, 3, more
  static constexpr int kPositionClasses = 5;  // up to 1k, 2k, 4k, 8k tokens, more
  static constexpr int kQueues = kHitClasses * kPositionClasses;
  // Four buckets per doubling of the age, from 67 ms to 10 days.
  static constexpr int kBuckets = 96;

  struct Class {
    double waits = 0;
    std::array<double, kBuckets> returns{};
    // The chance to return in a bucket, of those who waited up to it, as of the last update.
    std::array<double, kBuckets> chance{};
    // What follows from it: worth by age, computed for the ages that are asked about.
    // UNITS: returns per second.
    std::array<double, kBuckets> rate{};
    std::bitset<kBuckets> has_rate;
    int changes = 0;  // since the last update
  };

  static int bucket_of(int64_t age_ns);
  void count_change(int queue);
  void update_chances(int queue);
  double rate_from(const Class& c, size_t age) const;

  std::array<double, kBuckets + 1> edges_s_;
  std::array<std::array<double, kBuckets>, kHitClasses> prior_;  // chances, by times found
  std::vector<Class> classes_;
  int64_t updates_ = 0;
};

}  // namespace quipu
