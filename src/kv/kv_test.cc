#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/random.h"
#include "kv/block_pool.h"
#include "kv/block_table.h"
#include "kv/cache_spec.h"
#include "kv/retained_sequences.h"

namespace quipu {
namespace {

TEST(CacheSpec, CountsTheTextbookBytes) {
  // Published shapes: bytes per token in KiB (bf16). Llama-2-7B, Llama-3-8B, Qwen3-0.6B, Llama-3.2-1B.
  struct Case {
    int layers, kv_heads, head_dim;
    double kib;
  };
  for (const Case& c : {Case{32, 32, 128, 512}, Case{32, 8, 128, 128}, Case{28, 8, 128, 112}, Case{16, 8, 64, 32}}) {
    const std::vector<KvLayerShape> layers(static_cast<size_t>(c.layers), {c.kv_heads, c.head_dim, c.head_dim});
    const KvCacheSpec spec = make_kv_cache_spec(layers, KvFormat::kBF16, 32);
    EXPECT_EQ(static_cast<double>(spec.bytes_per_token()) / 1024, c.kib);
    EXPECT_EQ(spec.block_bytes, 32 * spec.bytes_per_token());  // nothing padded at these sizes
  }
}

TEST(CacheSpec, LayersStartAtAlignedOffsetsOneAfterAnother) {
  const KvCacheSpec spec = make_kv_cache_spec({{3, 20, 12}, {1, 8, 8}}, KvFormat::kBF16, 16);
  EXPECT_EQ(spec.layers[0].offset_in_block, 0u);
  EXPECT_EQ(spec.layers[1].offset_in_block, spec.layers[0].layout.layer_bytes);
  EXPECT_EQ(spec.layers[1].offset_in_block % 64, 0u);
  EXPECT_EQ(spec.block_bytes, spec.layers[1].offset_in_block + spec.layers[1].layout.layer_bytes);
}

TEST(BlockPool, HandlesReturnTheirBlocks) {
  BlockPool pool(3);
  {
    BlockRef a = pool.allocate().value();
    BlockRef b = a.share();
    EXPECT_FALSE(a.unique());
    BlockRef c = pool.allocate().value();
    a = std::move(c);  // the first reference goes, the shared one stays
    EXPECT_TRUE(b.unique());
    EXPECT_EQ(pool.held_blocks(), 2);
    pool.check_invariants();
  }
  EXPECT_EQ(pool.free_blocks(), 3);
  pool.check_invariants();
}

TEST(BlockPool, SaysWhenItIsEmpty) {
  BlockPool pool(1);
  const std::optional<BlockRef> only = pool.allocate();
  EXPECT_TRUE(only.has_value());
  EXPECT_FALSE(pool.allocate().has_value());
}

TEST(BlockTable, AppendsInPlaceAndTruncates) {
  BlockPool pool(4);
  BlockTable table(16);
  ASSERT_TRUE(table.reserve(pool, 20));
  table.append(20);
  const BlockId first = table.block(0);
  EXPECT_FALSE(table.reserve(pool, 100));  // 7 blocks, 4 exist: nothing is taken
  EXPECT_EQ(table.num_blocks(), 2);
  ASSERT_TRUE(table.reserve(pool, 33));
  EXPECT_EQ(table.block(0), first);
  EXPECT_EQ(table.slot(17), table.block(1).value() * 16 + 1);
  table.truncate(16);
  EXPECT_EQ(table.num_blocks(), 1);
  EXPECT_EQ(pool.free_blocks(), 3);
}

TEST(BlockTable, ForkSharesWholeBlocksAndCopiesTheTail) {
  BlockPool pool(4);
  BlockTable source(16), fork(16);
  ASSERT_TRUE(source.reserve(pool, 40));
  source.append(40);
  const auto result = fork.fork_from(pool, source, 20);
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(fork.block(0), source.block(0));
  EXPECT_NE(fork.block(1), source.block(1));
  ASSERT_TRUE(result->copy.has_value());
  EXPECT_EQ(result->copy->from, source.block(1));
  EXPECT_EQ(result->copy->to, fork.block(1));
  BlockTable no_room(16);
  EXPECT_FALSE(no_room.fork_from(pool, source, 5).has_value());
  EXPECT_EQ(no_room.num_blocks(), 0);
}

// Random operations against a slow, obvious model: every token of every sequence is written into a
// plain array under its slot, and read back before it is trusted.
TEST(BlockTable, RandomOperationsKeepEverySequenceIntact) {
  constexpr int kBlocks = 24, kBlockTokens = 16;
  struct Sequence {
    std::vector<TokenId> tokens;
    BlockTable table{kBlockTokens};
  };
  Random random(11);
  BlockPool pool(kBlocks);
  std::vector<TokenId> memory(kBlocks * kBlockTokens, -1);
  std::vector<std::unique_ptr<Sequence>> live;
  const auto write = [&](Sequence& sequence, int64_t count) {
    const int64_t begin = sequence.table.num_tokens();
    if (!sequence.table.reserve(pool, begin + count)) return;
    for (int64_t p = begin; p < begin + count; ++p) {
      sequence.tokens.push_back(static_cast<TokenId>(random.next_below(1000)));
      EXPECT_FALSE(sequence.table.block_is_shared(static_cast<int>(p / kBlockTokens)));
      memory[static_cast<size_t>(sequence.table.slot(p))] = sequence.tokens.back();
    }
    sequence.table.append(count);
  };
  for (int step = 0; step < 20000; ++step) {
    const uint64_t action = random.next_below(4);
    if (action == 0 || live.empty()) {
      live.push_back(std::make_unique<Sequence>());
    } else if (action == 1) {
      write(*live[random.next_below(live.size())], static_cast<int64_t>(random.next_below(30)));
    } else if (action == 2) {
      const Sequence& source = *live[random.next_below(live.size())];
      auto fork = std::make_unique<Sequence>();
      const int64_t length = static_cast<int64_t>(random.next_below(source.tokens.size() + 1));
      const auto result = fork->table.fork_from(pool, source.table, length);
      if (!result.has_value()) continue;
      if (result->copy) {
        std::copy_n(memory.begin() + result->copy->from.value() * kBlockTokens, kBlockTokens,
                    memory.begin() + result->copy->to.value() * kBlockTokens);
      }
      fork->tokens.assign(source.tokens.begin(), source.tokens.begin() + length);
      live.push_back(std::move(fork));
    } else {
      const size_t index = random.next_below(live.size());
      live.erase(live.begin() + static_cast<ptrdiff_t>(index));
    }
    pool.check_invariants();
    for (const auto& sequence : live) {
      ASSERT_EQ(sequence->table.num_tokens(), static_cast<int64_t>(sequence->tokens.size()));
      for (size_t p = 0; p < sequence->tokens.size(); ++p) {
        ASSERT_EQ(memory[static_cast<size_t>(sequence->table.slot(static_cast<int64_t>(p)))], sequence->tokens[p]);
      }
    }
  }
  live.clear();
  EXPECT_EQ(pool.free_blocks(), kBlocks);
}

BlockTable filled_table(BlockPool& pool, int64_t tokens) {
  BlockTable table(16);
  EXPECT_TRUE(table.reserve(pool, tokens));
  table.append(tokens);
  return table;
}

TEST(RetainedSequences, FindsTheLongestCommonPrefix) {
  BlockPool pool(8);
  RetainedSequences retained;
  retained.retain({1, 2, 3, 4}, filled_table(pool, 4));
  retained.retain({1, 2, 9, 9, 9}, filled_table(pool, 5));
  const std::vector<TokenId> prompt = {1, 2, 9, 9, 7};
  EXPECT_EQ(retained.find(prompt)->tokens, 4);
  const std::vector<TokenId> other = {5};
  EXPECT_FALSE(retained.find(other).has_value());
}

TEST(RetainedSequences, FoldsPrefixesAndEvictsTheLeastRecentlyUsed) {
  BlockPool pool(8);
  RetainedSequences retained;
  retained.retain({1, 2}, filled_table(pool, 2));
  retained.retain({1, 2, 3}, filled_table(pool, 3));
  EXPECT_EQ(retained.size(), 1u);
  retained.retain({1}, filled_table(pool, 1));
  EXPECT_EQ(retained.size(), 1u);
  retained.retain({7, 7}, filled_table(pool, 2));
  const std::vector<TokenId> first = {1, 2, 3, 4};
  EXPECT_EQ(retained.find(first)->tokens, 3);  // used: now {7, 7} is the older one
  EXPECT_TRUE(retained.evict_one());
  EXPECT_EQ(retained.find(first)->tokens, 3);
  EXPECT_FALSE(retained.evict_one(retained.find(first)->table));
  EXPECT_TRUE(retained.evict_one());
  EXPECT_EQ(pool.free_blocks(), 8);
}

}  // namespace
}  // namespace quipu
