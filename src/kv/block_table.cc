#include "kv/block_table.h"

#include <algorithm>

namespace quipu {

int BlockTable::blocks_missing(int64_t tokens) const {
  const int64_t needed = (tokens + block_tokens_ - 1) / block_tokens_;
  return static_cast<int>(std::max<int64_t>(0, needed - num_blocks()));
}

bool BlockTable::reserve(BlockPool& pool, int64_t tokens) {
  const int missing = blocks_missing(tokens);
  if (pool.free_blocks() < missing) return false;
  for (int i = 0; i < missing; ++i) {
    std::optional<BlockRef> block = pool.allocate();
    QUIPU_CHECK(block.has_value(), "the pool promised {} blocks", missing);
    blocks_.push_back(std::move(*block));
  }
  return true;
}

void BlockTable::append(int64_t tokens) {
  QUIPU_CHECK(tokens >= 0 && num_tokens_ + tokens <= capacity(), "append {} to {} of {}", tokens, num_tokens_,
              capacity());
  num_tokens_ += tokens;
}

void BlockTable::truncate(int64_t tokens) {
  QUIPU_CHECK(tokens >= 0 && tokens <= num_tokens_, "truncate to {} of {}", tokens, num_tokens_);
  num_tokens_ = tokens;
  blocks_.resize(static_cast<size_t>((tokens + block_tokens_ - 1) / block_tokens_));
  QUIPU_CHECK(tokens % block_tokens_ == 0 || blocks_.back().unique(), "truncate inside a shared block");
}

std::optional<BlockTable::Fork> BlockTable::fork_from(BlockPool& pool, const BlockTable& source, int64_t tokens) {
  QUIPU_CHECK(blocks_.empty(), "fork into a table that holds blocks");
  QUIPU_CHECK(tokens >= 0 && tokens <= source.num_tokens(), "fork {} of {}", tokens, source.num_tokens());
  const int whole = static_cast<int>(tokens / block_tokens_);
  const bool has_part = tokens % block_tokens_ != 0;
  Fork fork;
  std::optional<BlockRef> tail;
  if (has_part) {
    tail = pool.allocate();
    if (!tail.has_value()) return std::nullopt;
    fork.copy = BlockCopy{source.block(whole), tail->id()};
  }
  for (int i = 0; i < whole; ++i) blocks_.push_back(source.blocks_[static_cast<size_t>(i)].share());
  if (has_part) blocks_.push_back(std::move(*tail));
  num_tokens_ = tokens;
  return fork;
}

}  // namespace quipu
