// The compact form and the host tier: the same bits come back, or nothing does.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "base/random.h"
#include "kv/host_tier.h"

namespace quipu {

class HostTierPeer {
 public:
  static std::vector<uint8_t>& payload(HostTier& tier, const TierKey& key) {
    return tier.by_key_.at(key)->block.bytes;
  }
};

namespace {

// Like keys and values: bf16 (or f32) normal numbers, or bytes without any pattern.
std::vector<std::byte> block_of(uint64_t seed, size_t bytes, int element_bytes) {
  Random random(seed);
  std::vector<std::byte> block(bytes);
  for (size_t i = 0; i + static_cast<size_t>(element_bytes) <= bytes;
       i += static_cast<size_t>(element_bytes)) {
    const float value = random.next_normal();
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (element_bytes == 2) bits >>= 16;
    if (element_bytes == 1) bits = static_cast<uint32_t>(random.next_u64());
    std::memcpy(block.data() + i, &bits, static_cast<size_t>(element_bytes));
  }
  return block;
}

TierKey key_of(int id, int group = 0) {
  TierKey key;
  std::memcpy(key.block.bytes.data() + 3, &id, sizeof id);
  key.group = group;
  return key;
}

TEST(BlockCodec, GivesTheSameBitsBackAndShrinksFloats) {
  for (const int element_bytes : {1, 2, 4}) {
    const std::vector<std::byte> raw = block_of(7, 64 * 1024, element_bytes);
    const CompactBlock compact = compact_block(raw, element_bytes);
    std::vector<std::byte> back(raw.size());
    ASSERT_TRUE(expand_block(compact, back));
    EXPECT_EQ(back, raw);
    // Bytes without a pattern are kept as they are; exponents of normal numbers shrink.
    EXPECT_LE(compact.bytes.size(), element_bytes == 1   ? raw.size() + 4
                                    : element_bytes == 2 ? raw.size() * 3 / 4
                                                         : raw.size() * 9 / 10);
  }
}

TEST(BlockCodec, AnyFlippedBitIsNoticed) {
  for (const int element_bytes : {1, 2}) {
    const std::vector<std::byte> raw = block_of(8, 4096, element_bytes);
    const CompactBlock good = compact_block(raw, element_bytes);
    std::vector<std::byte> back(raw.size());
    for (size_t at = 0; at < good.bytes.size(); at += 7) {
      CompactBlock bad = good;
      bad.bytes[at] ^= static_cast<uint8_t>(1 << (at % 8));
      EXPECT_FALSE(expand_block(bad, back) && back != raw) << "byte " << at;
    }
    CompactBlock torn = good;
    torn.bytes.resize(torn.bytes.size() / 2);
    EXPECT_FALSE(expand_block(torn, back));
  }
}

TEST(HostTier, KeepsToItsBytesAndForgetsTheOldestFirst) {
  const std::vector<std::byte> raw = block_of(1, 4096, 1);  // does not shrink
  HostTier tier(5 * 4500);
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(tier.store(key_of(i), raw, 1));
    EXPECT_LE(tier.stats().bytes, tier.capacity_bytes());
    if (i == 4) {  // used again: outlives 1
      EXPECT_TRUE(tier.store(key_of(0), raw, 1));
    }
  }
  EXPECT_EQ(tier.stats().blocks, 5);
  EXPECT_EQ(tier.stats().evictions, 3);
  EXPECT_EQ(tier.stats().stores_known, 1);
  const std::vector<TierKey> keys = {key_of(0), key_of(1), key_of(7), key_of(7, 1)};
  std::vector<uint8_t> found(keys.size());
  EXPECT_EQ(tier.lookup(keys, found), 2);
  EXPECT_EQ(found, (std::vector<uint8_t>{1, 0, 1, 0}));
  EXPECT_FALSE(HostTier(1000).store(key_of(1), raw, 1));
}

TEST(HostTier, ADamagedBlockIsAMissAndGone) {
  HostTier tier(1 << 20);
  const std::vector<std::byte> raw = block_of(2, 8192, 2);
  ASSERT_TRUE(tier.store(key_of(1), raw, 2));
  ASSERT_TRUE(tier.store(key_of(2), raw, 2));
  HostTierPeer::payload(tier, key_of(1))[100] ^= 4;
  std::vector<std::byte> into(raw.size());
  for (int i = 1; i <= 3; ++i) tier.load(TransferId(i), key_of(i), into);
  std::vector<TierCompletion> ended;
  tier.poll(ended);
  ASSERT_EQ(ended.size(), 3u);
  EXPECT_EQ(ended[0].outcome, TierOutcome::kCorrupt);
  EXPECT_EQ(ended[1].outcome, TierOutcome::kDone);
  EXPECT_EQ(ended[2].outcome, TierOutcome::kMissing);
  EXPECT_EQ(into, raw);
  EXPECT_EQ(tier.stats().loads_corrupt, 1);
  EXPECT_EQ(tier.stats().blocks, 1);
  tier.remove(key_of(2));
  EXPECT_EQ(tier.stats().bytes, 0u);
  EXPECT_EQ(tier.stats().raw_bytes, 0u);
}

}  // namespace
}  // namespace quipu
