// KvCache: the one door through which the scheduler uses the cache. It joins the block pools, the
// prefix index and a sequence's block tables (one of each per stream group, but one index), and
// counts what happens.
//
// Life of a sequence's keys and values:
//
//   begin    the longest cached beginning is found: whole blocks are shared, a tail that matches to
//            its end is taken over, any other part of a block is copied (a KvCopy for the backend)
//   reserve  blocks for the tokens of the next step; cached ones are evicted when none are free
//   append   tokens were computed; blocks that became full close: they are hashed and published,
//            and a block computed twice is folded into the one that was first; then windows slide:
//            blocks that no later token sees leave the table
//   release  the sequence ends, or is preempted: what it computed stays, evictable
//
// Below the pools there may be a tier (kv/tier.h). Evicted blocks go there; before a request begins,
// promote() brings back what it would reuse, as blocks of the index like any other.
//
// Block states in each group, derived from who holds a block: `free` in the pool; `open` in a table
// alone; `closed` in the index and in at least one table; `cached` in the index alone; `in flight`
// on its way from the tier. Invariant: free + open + closed + cached + in flight == total.
// Bookkeeping only: no KV byte is touched. THREADS: engine thread only.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "kv/block_pool.h"
#include "kv/block_table.h"
#include "kv/cost_model.h"
#include "kv/explanation.h"
#include "kv/prefix_index.h"
#include "kv/transfer.h"

namespace quipu {

struct KvGroupConfig {
  int total_blocks = 0;
  KvLifetime lifetime;
  uint64_t block_bytes = 0;  // UNITS: bytes; read with a tier only
};

struct KvCacheConfig {
  std::vector<KvGroupConfig> groups;  // the one that keeps everything, if any, first
  int block_tokens = 0;
  std::string fingerprint;      // of model, rope and KV format: part of every key
  std::string policy = "cost";  // REQUIRES: known to make_eviction_policy()
  bool publish = true;          // false: nothing is shared or kept
  // The most tokens that a sequence grows by before its windows slide: what a windowed group holds
  // beside its window. UNITS: tokens.
  int chunk_max = std::numeric_limits<int>::max();
  // Where evicted blocks go and come back from; null: nowhere. Must outlive the cache.
  KvTier* tier = nullptr;
};

using PromotionId = StrongId<struct PromotionIdTag, int64_t>;

// A promotion that was begun. UNITS: tokens that begin() finds without it, and with all of it.
struct PromotionTicket {
  PromotionId id;
  int64_t tokens_before = 0, tokens_after = 0;
};

// A sequence's part of the cache. Moves with the sequence; empty between release and begin.
struct SequenceKv {
  std::vector<BlockTable> tables;  // SHAPE: [groups]; all count the same tokens
  std::vector<NodeId> path;        // index nodes of its closed blocks, in order; all held
  std::string salt;
  Retention retention;

  int64_t num_tokens() const { return tables.front().num_tokens(); }
  // Blocks held in all groups together. UNITS: blocks.
  int num_blocks() const;
};

// A block to be copied inside its group's pool (copy on write).
struct KvCopy {
  int group = 0;
  BlockId from, to;
};

// Totals since the start. UNITS: tokens or blocks, as named.
struct KvCounters {
  int64_t lookups = 0;
  int64_t lookups_hit = 0;
  int64_t tokens_looked_up = 0;
  int64_t tokens_reused = 0;
  int64_t blocks_shared = 0;
  int64_t tails_taken = 0;
  int64_t blocks_copied = 0;
  int64_t blocks_published = 0;
  int64_t blocks_folded = 0;
  int64_t blocks_evicted = 0;         // leaves of the index, with all their blocks
  int64_t window_blocks_evicted = 0;  // blocks of windowed groups whose node stayed
  int64_t window_blocks_left = 0;     // blocks that a sliding window left behind
  // Of tokens_reused, by source, as in KvExplanation.
  int64_t tokens_shared = 0, tokens_tail = 0, tokens_copied = 0;
  // Look-ups that did not find all they could use, by MissReason. Without explain(), other salts
  // are looked at up to KvCache::kSaltsLookedAt.
  std::array<int64_t, kMissReasons> misses{};
  // Between the pools and the tier. UNITS: blocks of a group; promotions: requests that had some
  // brought back, and of those the ones whose blocks came too late to hang on anything.
  int64_t blocks_stored = 0, blocks_not_stored = 0, blocks_restored = 0, blocks_lost = 0;
  int64_t promotions = 0, promotions_orphaned = 0;
};

struct KvBlockStates {
  int free = 0, open = 0, closed = 0, cached = 0, in_flight = 0;
};

class KvCache {
 public:
  // So many other salts are looked at, to count misses by reason; with more, "never seen" may mean
  // under yet another salt. It bounds what a miss costs where thousands of tenants share a machine.
  static constexpr int kSaltsLookedAt = 8;

  // OWNS: nothing given; the clock must outlive the cache.
  KvCache(const KvCacheConfig& config, const Clock& clock);

  // An empty sequence, with room to list the blocks of `tokens_max` tokens, so that taking them
  // later allocates nothing.
  SequenceKv make_sequence(int64_t tokens_max = 0) const;

  // How many of `tokens` are cached for this salt. Changes nothing. UNITS: tokens.
  int64_t match_length(const SequenceKv& sequence, std::span<const TokenId> tokens);

  // Starts an empty sequence from the cache, with at most `reuse_max` tokens. Result: what was found
  // and why not more, but for what explain() adds.
  KvExplanation begin(SequenceKv& sequence, std::span<const TokenId> tokens, int64_t reuse_max,
             std::vector<KvCopy>& copies);

  // Fills in what begin() leaves out, right after it. Of other salts it looks under those that
  // begin with `salts` and nothing else: a tenant's own, or all of them for whoever runs the
  // program. What begin() says tells of no other salt; that one has the tokens goes into the
  // counters only, which are the operator's.
  void explain(const SequenceKv& sequence, std::span<const TokenId> tokens, int64_t reuse_max,
               std::string_view salts, KvExplanation& explanation);
  // What begin() would find of a prompt now, and why not more, with what explain() adds of it.
  // Counts nothing and changes nothing. UNITS: tier_tokens: what could be reused once the tier
  // brought its part back; no less than what is found.
  struct Preview {
    KvExplanation found;
    int64_t tier_tokens = 0;
  };
  Preview preview(const std::string& salt, std::span<const TokenId> tokens, int64_t reuse_max,
                  std::string_view salts);
  // A look-up that was counted under one reason turned out to have missed for another.
  void recount_miss(KvExplanation& explanation, MissReason reason);

  // ---- the tier ----

  // Starts to bring back from the tier what would let begin() find more than it does now, when that
  // is quicker than computing it. Nothing when there is nothing to bring, or no room for it.
  std::optional<PromotionTicket> promote(const SequenceKv& sequence,
                                         std::span<const TokenId> tokens, int64_t reuse_max);
  // False once all its blocks came or were lost. A promotion ends by itself, wanted or not.
  bool is_in_flight(PromotionId id) const { return promotions_.contains(id.value()); }
  bool has_promotions() const { return !promotions_.empty(); }
  // Takes what the tier has brought since the last call into the index.
  void finish_transfers();
  // Moves what is to be done before the next step into these. REQUIRES: it is done before any block
  // is written again, stores first, loads last.
  void take_transfers(std::vector<KvStore>& stores, std::vector<KvLoad>& loads);
  // Whether the tier would hold a sequence's blocks better than a second computation.
  bool would_store(const SequenceKv& sequence) const;
  KvCostModel& cost_model() { return cost_; }
  const KvCostModel& cost_model() const { return cost_; }
  const KvTier* tier() const { return config_.tier; }

  // Room for `tokens` tokens in all; in windowed groups for the next chunk_max of them. False, and
  // nothing taken, when that would need blocks that running sequences hold.
  [[nodiscard]] bool reserve(SequenceKv& sequence, int64_t tokens);
  // Whether reserve() would succeed.
  bool can_reserve(const SequenceKv& sequence, int64_t tokens) const;
  // Whether the sequence could grow to `tokens` tokens, chunk by chunk, if no other one grew.
  bool can_grow_to(const SequenceKv& sequence, int64_t tokens) const;

  // `count` more tokens were computed. SHAPE: tokens: all of the sequence's tokens.
  void append(SequenceKv& sequence, std::span<const TokenId> tokens, int64_t count);

  // Gives everything back; what was computed stays in the index, unless the cache does not publish.
  void release(SequenceKv& sequence, std::span<const TokenId> tokens);

  // Forgets the tokens from position `count` on. Inside a closed block the rest is copied. Keeps
  // fewer than `count` where there is no block for that copy, or where the window before `count` is
  // gone: then up to the last block's end at which every group is whole. What is missing of `count`
  // is computed again.
  void truncate(SequenceKv& sequence, int64_t count, std::vector<KvCopy>& copies);

  // Starts `fork` from all that `source` has: closed blocks shared, the open one copied.
  // False, and nothing changed, when there is no block for the copy. REQUIRES: fork is empty.
  [[nodiscard]] bool fork(const SequenceKv& source, SequenceKv& fork, std::vector<KvCopy>& copies);

  // Evicts everything that no sequence holds.
  void clear();

  int block_tokens() const { return config_.block_tokens; }
  int num_groups() const { return static_cast<int>(pools_.size()); }
  const KvLifetime& lifetime(int group) const { return lifetimes_[static_cast<size_t>(group)]; }
  // UNITS (these three): blocks of one group.
  int total_blocks(int group = 0) const { return pool(group).total_blocks(); }
  int free_blocks(int group = 0) const { return pool(group).free_blocks(); }
  // Free, or only kept for later and not pinned.
  int available_blocks(int group = 0) const {
    return pool(group).free_blocks() + index_.num_cached_blocks(group) -
           index_.num_kept_blocks(group);
  }
  // The most blocks of a group that a sequence of up to `tokens` tokens holds at once.
  int64_t blocks_held_max_for(int group, int64_t tokens) const {
    return blocks_held_max(lifetime(group), config_.block_tokens, tokens, config_.chunk_max);
  }
  KvBlockStates block_states(int group = 0) const;
  bool is_free(int group, BlockId block) const { return pool(group).reference_count(block) == 0; }
  // The blocks of a group that a tier is writing into.
  std::vector<BlockId> blocks_in_flight(int group) const;
  // The most tokens that one sequence may have; nothing when every group's window fits, so that
  // there is no end. UNITS: tokens.
  std::optional<int64_t> sequence_tokens_max() const;
  const KvCounters& counters() const { return counters_; }
  const PrefixIndex& index() const { return index_; }
  PrefixIndex& index() { return index_; }

  void check_invariants() const;

 private:
  const BlockPool& pool(int group) const { return pools_[static_cast<size_t>(group)]; }
  BlockPool& pool(int group) { return pools_[static_cast<size_t>(group)]; }
  int blocks_missing(const SequenceKv& sequence, int group, int64_t tokens) const;
  NodeId last_node(const SequenceKv& sequence);
  bool make_room(int group, int blocks, std::optional<NodeId> keep = std::nullopt);
  bool make_room_in_all(int blocks, std::optional<NodeId> keep);
  void hold_path(SequenceKv& sequence, const PrefixIndex::Match& match);
  void drop_path(SequenceKv& sequence, int blocks);
  bool take_partial(SequenceKv& sequence, NodeId node, int tokens, std::vector<KvCopy>& copies);
  void copy_into(SequenceKv& sequence, int block, int tokens, std::vector<KvCopy>& copies);
  void publish_full_blocks(SequenceKv& sequence, std::span<const TokenId> tokens);
  void slide_windows(SequenceKv& sequence);
  int64_t resume_point(const SequenceKv& sequence, int64_t count) const;
  void restore_windows(SequenceKv& sequence, int64_t count);
  std::span<BlockRef> share_all(const SequenceKv& sequence, int block);
  bool is_under_other_salt(const std::string& own, int64_t found, std::span<const TokenId> wanted,
                           std::string_view salts, int salts_max) const;
  void explain_gone(const PrefixIndex::Match& match, std::span<const TokenId> wanted,
                    KvExplanation& explanation) const;
  MissReason miss_reason(const PrefixIndex::Match& match, std::span<const TokenId> wanted) const;

  // Blocks of one position on their way from the tier.
  struct PromotedBlock {
    std::vector<BlockRef> blocks;  // SHAPE: [groups]; empty where memory has the block
    bool is_lost = false;
  };
  struct Promotion {
    SequenceKv prefix;             // its salt and retention; holds nothing
    std::vector<TokenId> tokens;   // up to the last one on its way
    int first = 0;                 // index of blocks[0] in the sequence
    std::vector<PromotedBlock> blocks;
    int pending = 0;  // loads that have not ended
  };
  struct LoadPlace {
    int64_t promotion = 0;
    size_t block = 0;
    int group = 0;
  };
  struct PromotionPlan;
  PromotionPlan plan_promotion(const SequenceKv& sequence, std::span<const TokenId> tokens,
                               std::span<const TokenId> wanted);
  void plan_tail(PromotionPlan& plan, NodeId root, std::span<const TokenId> tokens);
  void start_loads(Promotion& promotion, int64_t id, const PromotionPlan& plan);
  void publish(Promotion& promotion);
  void store_before_eviction(NodeId node, int group);
  uint64_t group_block_bytes(int group) const {
    return config_.groups[static_cast<size_t>(group)].block_bytes;
  }

  KvCacheConfig config_;
  std::vector<KvLifetime> lifetimes_;  // SHAPE: [groups]
  const Clock& clock_;
  std::deque<BlockPool> pools_;   // SHAPE: [groups]; a deque, since references point to them
  PrefixIndex index_;             // after pools_: its blocks go back before the pools end
  std::vector<BlockRef> blocks_;  // SHAPE: [groups]: a column on its way into the index
  KvCounters counters_;

  KvCostModel cost_;
  std::vector<KvStore> stores_;  // since take_transfers()
  std::vector<KvLoad> loads_;
  std::map<int64_t, Promotion> promotions_;
  std::map<int64_t, LoadPlace> loading_;  // by transfer
  std::vector<TierCompletion> ended_;
  std::vector<int> in_flight_;  // SHAPE: [groups]
  int64_t next_promotion_ = 0, next_transfer_ = 0;
};

}  // namespace quipu
