#include "kv/block_pool.h"

namespace quipu {

BlockRef::~BlockRef() {
  if (pool_ != nullptr) pool_->drop_reference(id_);
}

BlockRef BlockRef::share() const {
  QUIPU_CHECK(valid(), "share of an empty BlockRef");
  pool_->add_reference(id_);
  return BlockRef(pool_, id_);
}

int BlockRef::references() const { return pool_->reference_count(id_); }

BlockPool::BlockPool(int blocks) : reference_counts_(static_cast<size_t>(blocks), 0) {
  QUIPU_CHECK(blocks > 0, "a pool of {} blocks", blocks);
  free_.reserve(static_cast<size_t>(blocks));
  for (int id = blocks - 1; id >= 0; --id) free_.push_back(BlockId(id));
}

BlockPool::~BlockPool() { QUIPU_CHECK(held_blocks() == 0, "{} blocks still held", held_blocks()); }

std::optional<BlockRef> BlockPool::allocate() {
  if (free_.empty()) return std::nullopt;
  const BlockId id = free_.back();
  free_.pop_back();
  QUIPU_CHECK(reference_counts_[id.value()] == 0, "free block {} is referenced", id.value());
  reference_counts_[id.value()] = 1;
  return BlockRef(this, id);
}

void BlockPool::add_reference(BlockId id) {
  QUIPU_CHECK(reference_counts_[id.value()] > 0, "sharing free block {}", id.value());
  ++reference_counts_[id.value()];
}

void BlockPool::drop_reference(BlockId id) {
  QUIPU_CHECK(reference_counts_[id.value()] > 0, "double release of block {}", id.value());
  if (--reference_counts_[id.value()] == 0) free_.push_back(id);
}

void BlockPool::check_invariants() const {
  std::vector<bool> is_free(reference_counts_.size(), false);
  for (const BlockId id : free_) {
    QUIPU_CHECK(!is_free[id.value()], "block {} is free twice", id.value());
    is_free[id.value()] = true;
  }
  for (size_t id = 0; id < reference_counts_.size(); ++id) {
    QUIPU_CHECK(reference_counts_[id] >= 0, "block {} has {} references", id,
                reference_counts_[id]);
    QUIPU_CHECK(is_free[id] == (reference_counts_[id] == 0), "block {}: free {} with {} references",
                id, static_cast<bool>(is_free[id]), reference_counts_[id]);
  }
}

}  // namespace quipu
