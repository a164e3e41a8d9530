// BlockTable: the blocks that hold one sequence's keys and values in one stream group, in order of
// position.
//
//   position   0 .. B-1   B .. 2B-1   2B .. num_tokens-1
//   block      ref 0      ref 1       ref 2 (the tail, partly filled)
//
// In a windowed group the blocks between the sinks and the window are given back as the window
// slides. What is left keeps its index and moves to a lower column:
//
//   block      0 (sinks)  | gap |  7     8     9
//   column     0                   1     2     3
//
// Invariants:
//   1. every block from 0 to end_block() - 1 is held, but for one gap right after the sinks'
//   blocks;
//   2. num_tokens <= capacity, and the gap lies before the blocks that later tokens see;
//   3. every position that is still to be written lies in a block held by this table alone.
// Appending never moves or copies keys and values. THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "kv/block_pool.h"
#include "kv/cache_spec.h"

namespace quipu {

class BlockTable {
 public:
  explicit BlockTable(int block_tokens, const KvLifetime& lifetime = {})
      : block_tokens_(block_tokens),
        lifetime_(lifetime),
        sink_blocks_(quipu::sink_blocks(lifetime, block_tokens)) {}

  int64_t num_tokens() const { return num_tokens_; }
  int64_t capacity() const { return static_cast<int64_t>(end_block()) * block_tokens_; }
  // Blocks held. UNITS: blocks.
  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  // Blocks left out between the sinks and the window. UNITS: blocks.
  int gap() const { return gap_; }
  // The index after the last block.
  int end_block() const { return num_blocks() + gap_; }
  bool has_block(int index) const {
    return index < end_block() && (index < sink_blocks_ || index >= sink_blocks_ + gap_);
  }
  // REQUIRES (this and what follows): has_block(index).
  BlockId block(int index) const { return at(index).id(); }
  bool block_is_shared(int index) const { return !at(index).unique(); }
  // The block of a column, for a batch's table. REQUIRES: column < num_blocks().
  BlockId column(int column) const { return blocks_[static_cast<size_t>(column)].id(); }
  // The index of the block in a column.
  int index_of_column(int column) const { return column < sink_blocks_ ? column : column + gap_; }

  // The first block past the sinks that a sequence of `tokens` tokens needs to go on.
  int first_needed(int64_t tokens) const;

  // Blocks missing before `tokens` tokens fit. UNITS: blocks.
  int blocks_missing(int64_t tokens) const;

  // Takes blocks until `tokens` tokens fit. False, and nothing taken, when the pool has too few.
  [[nodiscard]] bool reserve(BlockPool& pool, int64_t tokens);

  // Makes room to list the blocks of a sequence that grows to `tokens` tokens, `chunk` at a time,
  // so that taking them later allocates nothing.
  void expect(int64_t tokens, int chunk) {
    blocks_.reserve(static_cast<size_t>(blocks_held_max(lifetime_, block_tokens_, tokens, chunk)));
  }

  // The slot of a position: block id * block_tokens + offset.
  int64_t slot(int64_t position) const {
    return static_cast<int64_t>(block(static_cast<int>(position / block_tokens_)).value()) *
               block_tokens_ +
           position % block_tokens_;
  }

  // Counts tokens as written. REQUIRES: they fit.
  void append(int64_t tokens);

  // Gives back the blocks that no token from num_tokens() on sees. Result: [first, last) of them.
  std::pair<int, int> slide();

  // Forgets all tokens from position `tokens` on and gives back blocks that hold none.
  // REQUIRES: tokens <= num_tokens(); when `tokens` lies inside a block, that block is not shared.
  // The window before `tokens` may be missing afterwards: restore_before() brings it back.
  void truncate(int64_t tokens);
  // Forgets whole blocks from `end` on, whatever is in them.
  void truncate_blocks(int end);
  // Puts back the block right before the window: the gap shrinks by one. REQUIRES: gap() > 0.
  void restore_before(BlockRef block);
  int first_after_gap() const { return sink_blocks_ + gap_; }

  // Adds a full block that others share. REQUIRES: all blocks before it are full.
  void push_whole(BlockRef block);
  // Adds a block of which the first `tokens` tokens are written, held by this table alone.
  // REQUIRES: all blocks before it are full; 0 < tokens < block_tokens.
  void push_part(BlockRef block, int64_t tokens);
  // Leaves out the blocks from here to `index`. REQUIRES: the sinks' blocks are there, no gap yet.
  void skip_to(int index);
  // Another reference to block `index`.
  BlockRef share(int index) const { return at(index).share(); }
  // Puts an equal block in the place of block `index`.
  void replace(int index, BlockRef block) { at(index) = std::move(block); }
  // Gives all blocks back.
  void clear();

 private:
  size_t column_of(int index) const {
    QUIPU_DCHECK(has_block(index), "block {} is not in the table", index);
    return static_cast<size_t>(index < sink_blocks_ ? index : index - gap_);
  }
  const BlockRef& at(int index) const { return blocks_[column_of(index)]; }
  BlockRef& at(int index) { return blocks_[column_of(index)]; }
  void push(BlockRef block, int64_t tokens);

  int block_tokens_;
  KvLifetime lifetime_;
  int sink_blocks_;
  int gap_ = 0;
  int64_t num_tokens_ = 0;
  std::vector<BlockRef> blocks_;
};

}  // namespace quipu
