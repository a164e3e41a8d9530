// EncodingCache: sharing, eviction, and a long random run against an obvious model.
#include "kv/encoding_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>

#include "base/random.h"

namespace quipu {
namespace {

constexpr int kBlockTokens = 16;

EncodingCacheConfig config_of(int blocks, bool keep = true) {
  return {.total_blocks = blocks, .block_tokens = kBlockTokens, .fingerprint = "f", .keep = keep};
}

BlockKey key_of(const EncodingCache& cache, TokenId seed, const char* salt = "") {
  const TokenId input[] = {seed, 2, 3};
  return cache.key(salt, input);
}

TEST(EncodingCache, EqualInputsShareAndOthersDoNot) {
  EncodingCache cache(config_of(8));
  auto first = cache.acquire(key_of(cache, 1), 40);
  ASSERT_TRUE(first.has_value());
  EXPECT_FALSE(first->encoded);
  EXPECT_EQ(first->encoding.blocks().size(), 3u);
  auto second = cache.acquire(key_of(cache, 1), 40);
  ASSERT_TRUE(second.has_value());
  EXPECT_TRUE(second->encoded);
  EXPECT_EQ(second->encoding.blocks()[0].id(), first->encoding.blocks()[0].id());
  EXPECT_FALSE(cache.acquire(key_of(cache, 2), 40)->encoded);
  EXPECT_FALSE(cache.acquire(key_of(cache, 1, "tenant"), 30)->encoded);
  EXPECT_EQ(cache.counters().inputs_reused, 1);
  EXPECT_EQ(cache.counters().tokens_reused, 40);
  cache.check_invariants();
}

TEST(EncodingCache, KeepsWhatIsUnusedUntilItsBlocksAreWanted) {
  EncodingCache cache(config_of(4));
  for (TokenId seed = 1; seed <= 2; ++seed) cache.acquire(key_of(cache, seed), 32);
  EXPECT_EQ(cache.free_blocks(), 0);
  EXPECT_EQ(cache.unused_blocks(), 4);
  EXPECT_TRUE(cache.acquire(key_of(cache, 1), 32)->encoded);   // now used later than 2
  EXPECT_FALSE(cache.acquire(key_of(cache, 3), 20)->encoded);  // evicts 2
  EXPECT_TRUE(cache.contains(key_of(cache, 1)));
  EXPECT_FALSE(cache.contains(key_of(cache, 2)));
  EXPECT_EQ(cache.counters().inputs_evicted, 1);
  cache.check_invariants();
}

TEST(EncodingCache, RefusesWithoutEvictingWhatCouldNotHelp) {
  EncodingCache cache(config_of(4));
  const auto held = cache.acquire(key_of(cache, 1), 33);  // 3 blocks
  cache.acquire(key_of(cache, 2), 16);                    // unused at once
  EXPECT_FALSE(cache.can_acquire(key_of(cache, 3), 17));
  EXPECT_FALSE(cache.acquire(key_of(cache, 3), 17).has_value());
  EXPECT_TRUE(cache.contains(key_of(cache, 2)));
  EXPECT_TRUE(cache.acquire(key_of(cache, 3), 16).has_value());
  cache.check_invariants();
}

TEST(EncodingCache, WithoutKeepingNothingStays) {
  EncodingCache cache(config_of(4, /*keep=*/false));
  {
    const auto held = cache.acquire(key_of(cache, 1), 33);
    EXPECT_TRUE(cache.acquire(key_of(cache, 1), 33)->encoded);
    EXPECT_EQ(cache.free_blocks(), 1);
  }
  EXPECT_EQ(cache.free_blocks(), 4);
  EXPECT_EQ(cache.num_encodings(), 0);
}

// An obvious model: which inputs there are, who holds them, and the order in which they fell idle.
TEST(EncodingCache, RandomRunAgreesWithAnObviousModel) {
  constexpr int kBlocks = 20;
  EncodingCache cache(config_of(kBlocks));
  Random random(5);
  struct Known {
    int64_t tokens = 0;
    int holders = 0;
  };
  std::map<TokenId, Known> known;
  std::deque<TokenId> idle;  // longest first
  std::vector<std::pair<TokenId, EncodingRef>> held;
  const auto blocks_of = [](int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; };
  const auto used_blocks = [&](bool held_only) {
    int64_t blocks = 0;
    for (const auto& [seed, input] : known) {
      if (!held_only || input.holders > 0) blocks += blocks_of(input.tokens);
    }
    return blocks;
  };
  for (int round = 0; round < 20000; ++round) {
    if (random.next_below(2) == 0) {
      const auto seed = static_cast<TokenId>(random.next_below(30));
      const int64_t tokens = 1 + (seed * 37) % 90;
      const bool there = known.contains(seed);
      const bool fits = there || used_blocks(true) + blocks_of(tokens) <= kBlocks;
      auto got = cache.acquire(key_of(cache, seed), tokens);
      ASSERT_EQ(got.has_value(), fits) << "round " << round;
      if (!fits) continue;
      ASSERT_EQ(got->encoded, there);
      while (!there && used_blocks(false) + blocks_of(tokens) > kBlocks) {
        known.erase(idle.front());
        idle.pop_front();
      }
      std::erase(idle, seed);
      known[seed].tokens = tokens;
      ++known[seed].holders;
      held.emplace_back(seed, std::move(got->encoding));
    } else if (!held.empty()) {
      const size_t i = random.next_below(held.size());
      const TokenId seed = held[i].first;
      std::swap(held[i], held.back());
      held.pop_back();
      if (--known[seed].holders == 0) idle.push_back(seed);
    }
    cache.check_invariants();
    ASSERT_EQ(cache.num_encodings(), static_cast<int>(known.size()));
    ASSERT_EQ(cache.free_blocks(), kBlocks - used_blocks(false));
    for (const auto& [seed, input] : known) ASSERT_TRUE(cache.contains(key_of(cache, seed)));
  }
  EXPECT_GT(cache.counters().inputs_evicted, 100);
  EXPECT_GT(cache.counters().inputs_reused, 100);
  held.clear();
  cache.clear();
  EXPECT_EQ(cache.free_blocks(), kBlocks);
}

}  // namespace
}  // namespace quipu
