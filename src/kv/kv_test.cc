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

}  // namespace
}  // namespace quipu
