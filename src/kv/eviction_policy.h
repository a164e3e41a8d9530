// EvictionPolicy: how much a cached block is worth keeping. The least worthy leaf goes first.
//
// Nodes with like prospects wait in one queue, in the order of a worth that is fixed when a node is
// used, so that the index can keep its leaves in order. When room is needed, the ends of the queues
// are compared by what they are worth at that moment. A policy is a function of what happened to
// the nodes and of what it was told; it reads no clock and draws no random numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace quipu {

struct NodeUse {
  int64_t sequence_number = 0;  // counts uses of the whole index: the index's own clock
  int64_t time_ns = 0;          // UNITS: ns of the cache's clock
  int64_t position = 0;         // UNITS: tokens before the block
  int hits = 0;                 // times it was found, beyond the first
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  virtual std::string_view name() const = 0;

  virtual int num_queues() const { return 1; }
  virtual int queue_of(const NodeUse& /*use*/) const { return 0; }
  // The node's place in its queue.
  virtual double worth(const NodeUse& use) = 0;
  // What a node of that place in a queue is worth now, to be compared between queues.
  virtual double worth_now(int /*queue*/, double worth, int64_t /*now_ns*/) { return worth; }
  // Changes whenever worth_now() could give another answer to the same question.
  virtual int64_t version() const { return 0; }
  // Whether the last of a queue can be worth less than its first.
  virtual bool considers_both_ends() const { return false; }

  // A node began to wait to be used again, in that queue.
  virtual void waits(int /*queue*/) {}
  // A node that waited in `queue` was wanted again after that time, still cached or evicted already.
  virtual void returned(int /*queue*/, int64_t /*age_ns*/) {}
  // Tells the policy what the evicted node was worth.
  virtual void evicted(double /*worth*/) {}
};

// "lru": the least recently used leaf first.
std::unique_ptr<EvictionPolicy> make_lru_policy();

// "cost": recompute cost times 1 + log2(1 + hits), aged by what was evicted before, so that what
// was found again outlives what was seen once, but not for ever. A block deep in a long prompt
// costs more to recompute: its attention reads everything before it. SOURCE: Cao & Irani 1997
// (GreedyDual-Size), Cherkasova 1998 (with frequency); every block has the same size, so size drops
// out; the logarithm is ours, chosen on the trace (docs/SIMULATE.md). `attention_tokens`: the depth
// at which a block counts twice. UNITS: tokens.
std::unique_ptr<EvictionPolicy> make_cost_policy(double attention_tokens);

// By name: those, and "reuse", which learns when blocks come back (kv/reuse_policy.h). Nothing when
// unknown.
std::unique_ptr<EvictionPolicy> make_eviction_policy(std::string_view name);
inline constexpr std::string_view kEvictionPolicyNames = "reuse, cost, lru";

}  // namespace quipu
