// EvictionPolicy: how much a cached block is worth keeping. The least worthy leaf goes first.
//
// A policy is a pure function of what happened to a node, asked when it is used; between two uses
// the worth stands still, so that the index can keep its leaves in order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace quipu {

struct NodeUse {
  int64_t sequence_number = 0;  // counts uses of the whole index: the index's own clock
  int64_t position = 0;         // UNITS: tokens before the block
  int hits = 0;                 // times it was found, beyond the first
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  virtual std::string_view name() const = 0;
  virtual double worth(const NodeUse& use) = 0;
  // Tells the policy what the evicted node was worth.
  virtual void evicted(double /*worth*/) {}
};

// "lru": the least recently used leaf first.
std::unique_ptr<EvictionPolicy> make_lru_policy();

// "cost": recompute cost times 1 + log2(1 + hits), aged by what was evicted before, so that what
// was found again outlives what was seen once, but not for ever. A block deep in a long prompt
// costs more to recompute: its attention reads everything before it. SOURCE: Cao & Irani 1997
// (GreedyDual-Size), Cherkasova 1998 (with frequency); every block has the same size, so size drops
// out; the logarithm is ours, chosen on the trace (docs/CLI.md, simulate). `attention_tokens`: the
// depth at which a block counts twice. UNITS: tokens.
std::unique_ptr<EvictionPolicy> make_cost_policy(double attention_tokens);

// By name; nothing when unknown.
std::unique_ptr<EvictionPolicy> make_eviction_policy(std::string_view name);

}  // namespace quipu
