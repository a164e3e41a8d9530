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
  QUIPU_CHECK(tokens >= 0 && num_tokens_ + tokens <= capacity(), "append {} to {} of {}", tokens,
              num_tokens_, capacity());
  num_tokens_ += tokens;
}

void BlockTable::truncate(int64_t tokens) {
  QUIPU_CHECK(tokens >= 0 && tokens <= num_tokens_, "truncate to {} of {}", tokens, num_tokens_);
  num_tokens_ = tokens;
  blocks_.resize(static_cast<size_t>((tokens + block_tokens_ - 1) / block_tokens_));
  QUIPU_CHECK(tokens % block_tokens_ == 0 || blocks_.back().unique(),
              "truncate inside a shared block");
}

void BlockTable::push_whole(BlockRef block) { push(std::move(block), block_tokens_); }

void BlockTable::push_part(BlockRef block, int64_t tokens) {
  QUIPU_CHECK(tokens > 0 && tokens < block_tokens_ && block.unique(), "{} tokens of a block",
              tokens);
  push(std::move(block), tokens);
}

void BlockTable::push(BlockRef block, int64_t tokens) {
  QUIPU_CHECK(num_tokens_ == capacity(), "a block after {} tokens of {}", num_tokens_, capacity());
  blocks_.push_back(std::move(block));
  num_tokens_ += tokens;
}

}  // namespace quipu
