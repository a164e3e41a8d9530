// KvCache: the one door through which the scheduler uses the cache. It joins the block pool, the
// prefix index and a sequence's block table, and counts what happens.
//
// Life of a sequence's keys and values:
//
//   begin    the longest cached beginning is found: whole blocks are shared, a tail that matches to
//            its end is taken over, any other part of a block is copied (a BlockCopy for the
//            backend)
//   reserve  blocks for the tokens of the next step; cached ones are evicted when none are free
//   append   tokens were computed; blocks that became full close: they are hashed and published,
//   and
//            a block computed twice is folded into the one that was first
//   release  the sequence ends, or is preempted: what it computed stays, evictable
//
// Block states, derived from who holds a block: `free` in the pool; `open` in a table alone;
// `closed` in the index and in at least one table; `cached` in the index alone. Invariant: free +
// open + closed + cached == total. Bookkeeping only: no KV byte is touched. THREADS: engine thread
// only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "kv/block_pool.h"
#include "kv/block_table.h"
#include "kv/prefix_index.h"

namespace quipu {

struct KvCacheConfig {
  int total_blocks = 0;
  int block_tokens = 0;
  std::string fingerprint;      // of model, rope and KV format: part of every key
  std::string policy = "cost";  // REQUIRES: known to make_eviction_policy()
  bool publish = true;          // false: nothing is shared or kept
};

// A sequence's part of the cache. Moves with the sequence; empty between release and begin.
struct SequenceKv {
  explicit SequenceKv(int block_tokens) : table(block_tokens) {}

  BlockTable table;
  std::vector<NodeId> path;  // index nodes of its closed blocks, in order; all held
  std::string salt;
  Retention retention;
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
  int64_t blocks_evicted = 0;
};

struct KvBlockStates {
  int free = 0, open = 0, closed = 0, cached = 0;
};

class KvCache {
 public:
  // OWNS: nothing given; the clock must outlive the cache.
  KvCache(const KvCacheConfig& config, const Clock& clock);

  // How many of `tokens` are cached for this salt. Changes nothing. UNITS: tokens.
  int64_t match_length(const SequenceKv& sequence, std::span<const TokenId> tokens);

  // Starts an empty sequence from the cache, with at most `reuse_max` tokens.
  void begin(SequenceKv& sequence, std::span<const TokenId> tokens, int64_t reuse_max,
             std::vector<BlockCopy>& copies);

  // Room for `tokens` tokens in all. False, and nothing taken, when that would need blocks that
  // running sequences hold.
  [[nodiscard]] bool reserve(SequenceKv& sequence, int64_t tokens);
  // Whether reserve() would succeed.
  bool can_reserve(const SequenceKv& sequence, int64_t tokens) const;

  // `count` more tokens were computed. SHAPE: tokens: all of the sequence's tokens.
  void append(SequenceKv& sequence, std::span<const TokenId> tokens, int64_t count);

  // Gives everything back; what was computed stays in the index, unless the cache does not publish.
  void release(SequenceKv& sequence, std::span<const TokenId> tokens);

  // Forgets the tokens from position `count` on. Inside a closed block the rest is copied.
  // False, and nothing changed, when there is no block for that copy.
  [[nodiscard]] bool truncate(SequenceKv& sequence, int64_t count, std::vector<BlockCopy>& copies);

  // Starts `fork` from all that `source` has: closed blocks shared, the open one copied.
  // False, and nothing changed, when there is no block for the copy. REQUIRES: fork is empty.
  [[nodiscard]] bool fork(const SequenceKv& source, SequenceKv& fork,
                          std::vector<BlockCopy>& copies);

  // Evicts everything that no sequence holds.
  void clear();

  int block_tokens() const { return config_.block_tokens; }
  int total_blocks() const { return pool_.total_blocks(); }
  int free_blocks() const { return pool_.free_blocks(); }
  // Free, or only kept for later. UNITS: blocks.
  int available_blocks() const { return pool_.free_blocks() + index_.num_cached_blocks(); }
  KvBlockStates block_states() const;
  const KvCounters& counters() const { return counters_; }
  const PrefixIndex& index() const { return index_; }
  PrefixIndex& index() { return index_; }

  void check_invariants() const;

 private:
  NodeId last_node(const SequenceKv& sequence);
  bool make_room(int blocks, std::optional<NodeId> keep = std::nullopt);
  void take_partial(SequenceKv& sequence, NodeId node, int tokens, std::vector<BlockCopy>& copies);
  void publish_full_blocks(SequenceKv& sequence, std::span<const TokenId> tokens);

  KvCacheConfig config_;
  const Clock& clock_;
  BlockPool pool_;
  PrefixIndex index_;  // after pool_: its blocks go back before the pool ends
  KvCounters counters_;
};

}  // namespace quipu
