// BlockPool: who holds which KV block. Bookkeeping only: it never touches a KV byte.
//
// A block is free, or held by one or more BlockRefs. A block held once by a sequence that still
// writes into it is open; sharing is for blocks nobody writes any more, or for readers of a prefix
// that the writer only appends after.
//
// Invariants (check_invariants):
//   1. free_blocks() + held_blocks() == total_blocks();
//   2. a block is in the free list exactly when its reference count is 0, and at most once;
//   3. reference counts never go below 0: a BlockRef is move-only, so a leak or a double release
//      does not compile or fails a CHECK.
// OWNS: counts and the free list. THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/strong_id.h"

namespace quipu {

class BlockPool;

// One reference to one block; gives it back when destroyed. REQUIRES: the pool outlives it.
class BlockRef {
 public:
  BlockRef() = default;
  BlockRef(BlockRef&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
  BlockRef& operator=(BlockRef&& other) noexcept {
    BlockRef moved(std::move(other));
    std::swap(pool_, moved.pool_);
    std::swap(id_, moved.id_);
    return *this;
  }
  BlockRef(const BlockRef&) = delete;
  BlockRef& operator=(const BlockRef&) = delete;
  ~BlockRef();

  bool valid() const { return pool_ != nullptr; }
  BlockId id() const {
    QUIPU_DCHECK(valid(), "id of an empty BlockRef");
    return id_;
  }
  // Another reference to the same block.
  BlockRef share() const;
  // True when no other reference to the block exists.
  bool unique() const { return references() == 1; }
  int references() const;

 private:
  friend class BlockPool;
  BlockRef(BlockPool* pool, BlockId id) : pool_(pool), id_(id) {}

  BlockPool* pool_ = nullptr;
  BlockId id_;
};

class BlockPool {
 public:
  // REQUIRES: blocks > 0.
  explicit BlockPool(int blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();

  // A free block, or nothing when there is none. The block last freed comes first (warm in cache).
  std::optional<BlockRef> allocate();

  int total_blocks() const { return static_cast<int>(reference_counts_.size()); }
  int free_blocks() const { return static_cast<int>(free_.size()); }
  int held_blocks() const { return total_blocks() - free_blocks(); }
  int reference_count(BlockId id) const { return reference_counts_[id.value()]; }

  // Aborts with a message when an invariant is broken. O(total_blocks).
  void check_invariants() const;

 private:
  friend class BlockRef;
  void add_reference(BlockId id);
  void drop_reference(BlockId id);

  std::vector<int32_t> reference_counts_;
  std::vector<BlockId> free_;  // a stack
};

}  // namespace quipu
