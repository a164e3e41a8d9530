#include <gtest/gtest.h>

#include <vector>

#include "kv/block_pool.h"
#include "kv/block_table.h"
#include "kv/cache_spec.h"

namespace quipu {
namespace {

TEST(CacheSpec, CountsTheTextbookBytes) {
  // Published shapes: bytes per token in KiB (bf16). Llama-2-7B, Llama-3-8B, Qwen3-0.6B,
  // Llama-3.2-1B.
  struct Case {
    int layers, kv_heads, head_dim;
    double kib;
  };
  for (const Case& c : {Case{32, 32, 128, 512}, Case{32, 8, 128, 128}, Case{28, 8, 128, 112},
                        Case{16, 8, 64, 32}}) {
    const std::vector<KvLayerShape> layers(static_cast<size_t>(c.layers),
                                           {c.kv_heads, c.head_dim, c.head_dim});
    const KvCacheSpec spec = make_kv_cache_spec(layers, KvFormat::kBF16, 32);
    EXPECT_EQ(static_cast<double>(spec.bytes_per_token()) / 1024, c.kib);
    EXPECT_EQ(spec.block_bytes(), 32 * spec.bytes_per_token());  // nothing padded at these sizes
  }
}

TEST(CacheSpec, LayersStartAtAlignedOffsetsOneAfterAnother) {
  const std::vector<KvLayerShape> layers = {{3, 20, 12}, {1, 8, 8}};
  const KvCacheSpec spec = make_kv_cache_spec(layers, KvFormat::kBF16, 16);
  ASSERT_EQ(spec.groups.size(), 1u);
  const std::vector<KvLayerView>& views = spec.groups[0].layers;
  EXPECT_EQ(views[0].offset_in_block, 0u);
  EXPECT_EQ(views[1].offset_in_block, views[0].layout.layer_bytes);
  EXPECT_EQ(views[1].offset_in_block % 64, 0u);
  EXPECT_EQ(spec.block_bytes(), views[1].offset_in_block + views[1].layout.layer_bytes);
}

// Five windowed layers for each full one, as in Gemma 3.
std::vector<KvLayerShape> mixed_layers(int window) {
  std::vector<KvLayerShape> layers;
  for (int i = 0; i < 12; ++i) layers.push_back({1, 16, 16, {.window = i % 6 == 5 ? 0 : window}});
  return layers;
}

TEST(CacheSpec, LayersOfOneLifetimeFormAGroup) {
  const KvCacheSpec spec = make_kv_cache_spec(mixed_layers(64), KvFormat::kF32, 16);
  ASSERT_EQ(spec.groups.size(), 2u);
  EXPECT_FALSE(spec.groups[0].lifetime.is_windowed());  // first, though a windowed layer came first
  EXPECT_EQ(spec.groups[0].layers.size(), 2u);
  EXPECT_EQ(spec.groups[1].lifetime.window, 64);
  EXPECT_EQ(spec.groups[1].layers.size(), 10u);
  EXPECT_EQ(spec.layers[0].group, 1);
  EXPECT_EQ(spec.layers[5].group, 0);
  EXPECT_EQ(spec.layers[11].index, 1);
  EXPECT_EQ(spec.layers[6].index, 5);
}

TEST(CacheSpec, AWindowHoldsItsTokensAndAChunkWhereverTheyStart) {
  const KvLifetime window = {.window = 64};
  EXPECT_EQ(blocks_held_max(window, 16, 1000, 1), 5);   // 64 tokens touch 5 blocks of 16
  EXPECT_EQ(blocks_held_max(window, 16, 1000, 17), 6);  // 80
  EXPECT_EQ(blocks_held_max(window, 16, 33, 17), 3);    // a short sequence holds what it has
  EXPECT_EQ(blocks_held_max({.window = 64, .sinks = 4}, 16, 1000, 1), 6);
  EXPECT_EQ(blocks_held_max({}, 16, 1000, 17), 63);
}

TEST(CacheSpec, BytesGoToTheGroupsSoThatTheContextFits) {
  const KvCacheSpec spec = make_kv_cache_spec(mixed_layers(64), KvFormat::kF32, 16);
  const int64_t context = 32768;
  const uint64_t one = spec.sequence_bytes(context, 32);
  // 2048 blocks of the full group and 7 of the window's: 5 times as many layers, hardly any bytes.
  EXPECT_EQ(one, 2048 * spec.groups[0].block_bytes + 7 * spec.groups[1].block_bytes);
  EXPECT_EQ(divide_kv_bytes(spec, one, context, 32), (std::vector<int64_t>{2048, 7}));
  // Half of it: still one sequence, as long as fits.
  const std::vector<int64_t> half = divide_kv_bytes(spec, one / 2, context, 32);
  EXPECT_EQ(half[1], 7);
  EXPECT_GE(half[0], 1000);
  // Twice: what is left over serves sequences of 8192 tokens.
  const std::vector<int64_t> twice = divide_kv_bytes(spec, 2 * one, context, 32);
  EXPECT_GE(twice[1], 7 + 3 * 7);
  EXPECT_GE(twice[0], 2048 + 3 * 512);
  for (const auto& blocks : {half, twice}) {
    const uint64_t used = static_cast<uint64_t>(blocks[0]) * spec.groups[0].block_bytes +
                          static_cast<uint64_t>(blocks[1]) * spec.groups[1].block_bytes;
    EXPECT_LE(used, &blocks == &half ? one / 2 : 2 * one);
  }
  // One group takes every whole block.
  const KvCacheSpec plain = make_kv_cache_spec(mixed_layers(0), KvFormat::kF32, 16);
  EXPECT_EQ(divide_kv_bytes(plain, 100 * plain.block_bytes() + 1, 160, 32),
            (std::vector<int64_t>{100}));
  EXPECT_EQ(divide_kv_bytes(spec, 10, context, 32), (std::vector<int64_t>{0, 0}));
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

TEST(BlockTable, TakesSharedAndPartlyFilledBlocks) {
  BlockPool pool(4);
  BlockTable source(16), table(16);
  ASSERT_TRUE(source.reserve(pool, 16));
  source.append(16);
  table.push_whole(source.share(0));
  table.push_part(std::move(pool.allocate()).value(), 5);
  EXPECT_EQ(table.num_tokens(), 21);
  EXPECT_TRUE(table.block_is_shared(0));
  EXPECT_FALSE(table.block_is_shared(1));
  table.replace(0, std::move(pool.allocate()).value());
  EXPECT_FALSE(source.block_is_shared(0));
  table.clear();
  EXPECT_EQ(pool.free_blocks(), 3);
}

TEST(BlockTable, AWindowLeavesBlocksBehindAndKeepsTheSinks) {
  BlockPool pool(8);
  BlockTable table(16, {.window = 20, .sinks = 3});
  ASSERT_TRUE(table.reserve(pool, 40));
  table.append(40);
  const BlockId first = table.block(0);
  EXPECT_EQ(table.slide(), std::pair(1, 1));  // token 40 sees 21 .. 40: blocks 1 and 2
  ASSERT_TRUE(table.reserve(pool, 60));
  table.append(20);
  EXPECT_EQ(table.slide(), std::pair(1, 2));  // token 60 sees 41 .. 60
  EXPECT_EQ(table.num_blocks(), 3);
  EXPECT_EQ(table.gap(), 1);
  EXPECT_EQ(table.block(0), first);
  EXPECT_FALSE(table.has_block(1));
  EXPECT_EQ(table.column(1), table.block(2));
  EXPECT_EQ(table.slot(50), table.block(3).value() * 16 + 2);
  EXPECT_EQ(table.capacity(), 64);
  EXPECT_EQ(pool.held_blocks(), 3);
  table.restore_before(std::move(pool.allocate()).value());
  EXPECT_TRUE(table.has_block(1));
  EXPECT_EQ(table.gap(), 0);
  table.truncate(17);
  EXPECT_EQ(table.num_blocks(), 2);
  table.clear();
  EXPECT_EQ(pool.free_blocks(), 8);
}

TEST(BlockTable, AGrowingWindowHoldsAConstantNumberOfBlocks) {
  BlockPool pool(4);
  BlockTable table(16, {.window = 20, .sinks = 3});
  for (int64_t token = 0; token < 100'000; ++token) {
    ASSERT_TRUE(table.reserve(pool, token + 1)) << token;
    table.append(1);
    table.slide();
  }
  EXPECT_EQ(table.num_tokens(), 100'000);
  EXPECT_LE(table.num_blocks(), 4);
}

}  // namespace
}  // namespace quipu
