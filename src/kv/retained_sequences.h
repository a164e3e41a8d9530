// RetainedSequences: finished sequences whose keys and values are kept, so that a later prompt that
// begins the same way starts from them (a chat's next turn recomputes nothing but the new text).
//
// Look-up is by longest common prefix, token for token; whole blocks are then shared and the partly
// matching one is copied (BlockTable::fork_from). When blocks run short the least recently used
// sequence goes first.
//
// Invariant: tokens.size() >= table.num_tokens(); the table's positions hold the keys and values of
// exactly those tokens.
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/strong_id.h"
#include "kv/block_table.h"

namespace quipu {

class RetainedSequences {
 public:
  struct Match {
    const BlockTable* table = nullptr;  // valid until this sequence is evicted or folded
    int64_t tokens = 0;                 // UNITS: tokens of the common prefix that are cached
  };

  // The longest cached prefix of `tokens` and marks it used; nothing when no token matches.
  std::optional<Match> find(std::span<const TokenId> tokens);

  // Keeps a finished sequence. One that it extends, or that extends it, is folded into the longer.
  void retain(std::vector<TokenId> tokens, BlockTable table);

  // Drops the least recently used sequence, but not one whose table is `except` (a match that is
  // about to be forked). False when there is none to drop.
  bool evict_one(const BlockTable* except = nullptr);

  void clear() { entries_.clear(); }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    Entry(std::vector<TokenId> ids, BlockTable blocks, uint64_t use)
        : tokens(std::move(ids)), table(std::move(blocks)), last_use(use) {}
    std::vector<TokenId> tokens;
    BlockTable table;
    uint64_t last_use;
  };

  std::vector<std::unique_ptr<Entry>> entries_;  // pointers: a match stays where it is
  uint64_t uses_ = 0;
};

}  // namespace quipu
