#include "kv/block_table.h"

#include <algorithm>

namespace quipu {

int BlockTable::first_needed(int64_t tokens) const {
  if (!lifetime_.is_windowed()) return 0;
  return std::max(sink_blocks_, static_cast<int>(lifetime_.first_seen(tokens) / block_tokens_));
}

int BlockTable::blocks_missing(int64_t tokens) const {
  const int64_t needed = (tokens + block_tokens_ - 1) / block_tokens_;
  return static_cast<int>(std::max<int64_t>(0, needed - end_block()));
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

std::pair<int, int> BlockTable::slide() {
  const int first = first_after_gap();
  const int last = std::min(first_needed(num_tokens_), end_block());
  if (last <= first) return {first, first};
  const auto begin = blocks_.begin() + sink_blocks_;
  blocks_.erase(begin, begin + (last - first));
  gap_ += last - first;
  return {first, last};
}

void BlockTable::truncate(int64_t tokens) {
  QUIPU_CHECK(tokens >= 0 && tokens <= num_tokens_, "truncate to {} of {}", tokens, num_tokens_);
  const auto last = static_cast<int>(tokens / block_tokens_);
  const bool inside = tokens % block_tokens_ != 0;
  truncate_blocks(last + (inside ? 1 : 0));
  num_tokens_ = tokens;
  QUIPU_CHECK(!inside || !has_block(last) || !block_is_shared(last), "truncate in a shared block");
}

void BlockTable::truncate_blocks(int end) {
  if (end >= end_block()) return;
  blocks_.resize(
      static_cast<size_t>(std::min(end, sink_blocks_) + std::max(0, end - first_after_gap())));
  gap_ = std::clamp(end - sink_blocks_, 0, gap_);
  num_tokens_ = std::min(num_tokens_, capacity());
}

void BlockTable::restore_before(BlockRef block) {
  QUIPU_CHECK(gap_ > 0, "there is no gap to fill");
  blocks_.insert(blocks_.begin() + sink_blocks_, std::move(block));
  --gap_;
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

void BlockTable::skip_to(int index) {
  if (index <= end_block()) return;
  QUIPU_CHECK(gap_ == 0 && num_blocks() == sink_blocks_ && num_tokens_ == capacity(),
              "a gap after {} blocks, {} of them sinks", num_blocks(), sink_blocks_);
  gap_ = index - sink_blocks_;
  num_tokens_ = capacity();
}

void BlockTable::clear() {
  blocks_.clear();
  gap_ = 0;
  num_tokens_ = 0;
}

}  // namespace quipu
