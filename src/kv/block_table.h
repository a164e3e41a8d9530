// BlockTable: the blocks that hold one sequence's keys and values, in order of position.
//
//   position   0 .. B-1   B .. 2B-1   2B .. num_tokens-1
//   block      ref 0      ref 1       ref 2 (the tail, partly filled)
//
// Invariants:
//   1. blocks().size() == ceil(capacity / block_tokens) and num_tokens <= capacity;
//   2. every position that is still to be written lies in a block held by this table alone.
// Appending never moves or copies what is there.
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kv/block_pool.h"

namespace quipu {

class BlockTable {
 public:
  explicit BlockTable(int block_tokens) : block_tokens_(block_tokens) {}

  int64_t num_tokens() const { return num_tokens_; }
  int64_t capacity() const { return static_cast<int64_t>(blocks_.size()) * block_tokens_; }
  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  BlockId block(int index) const { return blocks_[static_cast<size_t>(index)].id(); }
  bool block_is_shared(int index) const { return !blocks_[static_cast<size_t>(index)].unique(); }

  // Blocks missing before `tokens` tokens fit. UNITS: blocks.
  int blocks_missing(int64_t tokens) const;

  // Takes blocks until `tokens` tokens fit. False, and nothing taken, when the pool has too few.
  [[nodiscard]] bool reserve(BlockPool& pool, int64_t tokens);

  // Makes room to list the blocks of `tokens` tokens, so that taking them later allocates nothing.
  void expect(int64_t tokens) {
    blocks_.reserve(static_cast<size_t>((tokens + block_tokens_ - 1) / block_tokens_));
  }

  // The slot of a position: block id * block_tokens + offset. REQUIRES: position < capacity().
  int64_t slot(int64_t position) const {
    return static_cast<int64_t>(block(static_cast<int>(position / block_tokens_)).value()) *
               block_tokens_ +
           position % block_tokens_;
  }

  // Counts tokens as written. REQUIRES: they fit.
  void append(int64_t tokens);

  // Forgets all tokens from position `tokens` on and gives back blocks that hold none.
  // REQUIRES: tokens <= num_tokens(); when `tokens` lies inside a block, that block is not shared.
  void truncate(int64_t tokens);

  // Adds a full block that others share. REQUIRES: all blocks before it are full.
  void push_whole(BlockRef block);
  // Adds a block of which the first `tokens` tokens are written, held by this table alone.
  // REQUIRES: all blocks before it are full; 0 < tokens < block_tokens.
  void push_part(BlockRef block, int64_t tokens);
  // Another reference to block `index`.
  BlockRef share(int index) const { return blocks_[static_cast<size_t>(index)].share(); }
  // Puts an equal block in the place of block `index`.
  void replace(int index, BlockRef block) {
    blocks_[static_cast<size_t>(index)] = std::move(block);
  }
  // Gives all blocks back.
  void clear() { truncate(0); }

 private:
  void push(BlockRef block, int64_t tokens);

  int block_tokens_;
  int64_t num_tokens_ = 0;
  std::vector<BlockRef> blocks_;
};

}  // namespace quipu
