// KvPins: prefixes that somebody asked to keep, by name.
//
// A pin keeps the blocks of a run of tokens out of eviction, and nothing else: requests share them
// as they share any cached blocks. Pins are bounded so that they starve nobody: of each stream
// group they hold at most a share of the blocks, and never so many that a request of full length
// does not fit beside them. That budget is divided equally among the owners, so that none learns
// from a refusal what another has pinned. A prefix that several pins of an owner have in common
// counts once.
//
// Invariants (check_invariants):
//   1. all tokens of every pin are cached, to the last;
//   2. an owner's pins hold at most its budget, in every group;
//   3. salts of different owners differ, so that no block is kept for two of them.
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "kv/kv_cache.h"

namespace quipu {

struct KvPinLimits {
  double share = 0.5;  // of the blocks of each group, for all owners together
  int owners = 1;      // the budget is divided by this
  int pins_per_owner_max = 256;
};

struct KvPin {
  std::string name;   // unique among all pins
  std::string owner;  // every salt of this owner begins with it
  std::string salt;
  std::string label;   // for people
  std::string parent;  // the pin it was forked from; may be gone
  std::vector<TokenId> tokens;
  int64_t created_ns = 0;
  std::optional<int64_t> expires_ns;  // it ends then. UNITS (both): ns of the clock
};

// Totals since the start.
struct KvPinCounters {
  int64_t created = 0, unpinned = 0, expired = 0, refused = 0;
};

class KvPins {
 public:
  // OWNS: cache and clock must outlive it. `token_limit`: the most tokens of a request.
  KvPins(KvCache& cache, int64_t token_limit, const KvPinLimits& limits, const Clock& clock);
  ~KvPins();
  KvPins(const KvPins&) = delete;
  KvPins& operator=(const KvPins&) = delete;

  enum class Outcome {
    kPinned,
    kNotCached,   // not all of its tokens are
    kOverBudget,  // there is no room left for it in the owner's part
    kTooMany,     // the owner has pins_per_owner_max
  };
  // REQUIRES: a new name, at least one token, a salt that begins with the owner.
  Outcome pin(KvPin pin);
  // Ends a pin; what it kept stays cached until its turn comes. False: the owner has no such pin.
  bool unpin(std::string_view owner, const std::string& name);
  // Ends the pins whose time is over.
  void expire();

  // Nothing when the owner has no such pin. OWNS: valid until the pins change.
  const KvPin* find(std::string_view owner, const std::string& name) const;
  // Those of owners that begin with `owner`, by name; all of them for an empty one.
  std::vector<const KvPin*> list(std::string_view owner) const;

  // UNITS (these two): blocks of a group. What one owner may hold, and what all hold now.
  int owner_budget(int group) const { return budgets_[static_cast<size_t>(group)]; }
  int held_blocks(int group) const;
  // What an owner holds. UNITS: blocks.
  int held_blocks_of(std::string_view owner, int group) const;
  // The most tokens that an owner without pins can pin. UNITS: tokens.
  int64_t tokens_max() const;
  KvCache& cache() { return cache_; }
  int num_pins() const { return static_cast<int>(pins_.size()); }
  const KvPinCounters& counters() const { return counters_; }

  void check_invariants() const;

 private:
  struct Pinned {
    KvPin pin;
    NodeId node;
    int tokens = 0;  // of the node
  };
  struct Owner {
    int pins = 0;
    // How many pins keep a node's block. SHAPE: [groups].
    std::vector<std::unordered_map<int32_t, int>> kept;
  };
  void end(std::map<std::string, Pinned>::iterator at);

  KvCache& cache_;
  const KvPinLimits limits_;
  const Clock& clock_;
  std::vector<int> budgets_;  // of an owner. SHAPE: [groups]
  int64_t tokens_max_ = 0;
  std::map<std::string, Pinned> pins_;
  std::map<std::string, Owner, std::less<>> owners_;  // of those that have pins
  std::set<std::pair<int64_t, std::string>> expiring_;
  KvPinCounters counters_;
};

}  // namespace quipu
