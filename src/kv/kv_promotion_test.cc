// Promotions of layers with a window: what promote() promises, a look-up finds once the blocks
// came.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "kv/host_tier.h"
#include "kv/kv_cache.h"

namespace quipu {
namespace {

constexpr int kBlock = 16;
constexpr size_t kBlockBytes = 64;

// A cache above a tier, whose blocks hold nothing worth looking at.
struct Layers {
  explicit Layers(std::vector<KvGroupConfig> groups)
      : cache({.groups = std::move(groups),
               .block_tokens = kBlock,
               .fingerprint = "promotion",
               .policy = "lru",
               .chunk_max = kBlock,
               .tier = &tier},
              clock) {}

  // Computes a prompt to its last token, a block at a time, and goes on holding its blocks.
  SequenceKv compute(const std::vector<TokenId>& tokens) {
    SequenceKv kv = cache.make_sequence();
    std::vector<KvCopy> copies;
    cache.begin(kv, tokens, static_cast<int64_t>(tokens.size()), copies);
    while (kv.num_tokens() < static_cast<int64_t>(tokens.size())) {
      clock.advance_ns(1'000'000);
      const int64_t end = std::min<int64_t>(static_cast<int64_t>(tokens.size()),
                                            (kv.num_tokens() / kBlock + 1) * kBlock);
      EXPECT_TRUE(cache.reserve(kv, end));
      move_blocks();
      cache.append(kv, tokens, end - kv.num_tokens());
    }
    cache.check_invariants();
    return kv;
  }
  void compute_and_release(const std::vector<TokenId>& tokens) {
    SequenceKv kv = compute(tokens);
    cache.release(kv, tokens);
    cache.check_invariants();
  }

  std::optional<PromotionTicket> promote(const std::vector<TokenId>& tokens, int64_t reuse_max) {
    const std::optional<PromotionTicket> ticket =
        cache.promote(cache.make_sequence(), tokens, reuse_max);
    cache.check_invariants();
    move_blocks();
    cache.finish_transfers();
    cache.check_invariants();
    return ticket;
  }
  int64_t found(std::span<const TokenId> tokens) {
    return cache.match_length(cache.make_sequence(), tokens);
  }

  void move_blocks() {
    std::vector<KvStore> stores;
    std::vector<KvLoad> loads;
    std::vector<std::byte> bytes(kBlockBytes);
    cache.take_transfers(stores, loads);
    for (const KvStore& store : stores) EXPECT_TRUE(tier.store(store.key, bytes, 1));
    for (const KvLoad& load : loads) tier.load(load.transfer, load.key, bytes);
  }

  FakeClock clock;
  HostTier tier{1 << 20};
  KvCache cache;
};

std::vector<TokenId> prompt(TokenId first, int length) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < length; ++i) tokens.push_back(first + i);
  return tokens;
}

TEST(KvPromotion, RoomIsNotMadeFromTheWindowThatIsToBeWhole) {
  // Three blocks of a window are all that its pool has beside one that runs.
  Layers layers({{14, {}, kBlockBytes}, {4, {.window = 40}, kBlockBytes}});
  const std::vector<TokenId> asked = prompt(1000, 48), other = prompt(2000, 32);
  layers.compute_and_release(asked);
  SequenceKv running = layers.compute(other);
  ASSERT_LT(layers.found(asked), 48) << "nothing of the window was evicted";
  // Its other blocks are still here. No room can be made but from them, so nothing is promised.
  EXPECT_FALSE(layers.promote(asked, 48).has_value());
  // With the other sequence's blocks to take, it is.
  layers.cache.release(running, other);
  const std::optional<PromotionTicket> ticket = layers.promote(asked, 48);
  ASSERT_TRUE(ticket.has_value());
  EXPECT_EQ(ticket->tokens_after, 48);
  EXPECT_EQ(layers.found(asked), 48);
}

TEST(KvPromotion, ATailIsNotPromisedWhereALongerBlockHasItsPlace) {
  Layers layers({{5, {}, kBlockBytes}, {3, {.window = 16}, kBlockBytes}});
  // A block and a tail of 8 go to the tier; then the same tokens are computed on, past a window.
  const std::vector<TokenId> asked = prompt(1000, 24);
  layers.compute_and_release(asked);
  layers.compute_and_release(prompt(2000, 80));
  ASSERT_EQ(layers.found(asked), 0);
  layers.compute_and_release(prompt(1000, 80));
  ASSERT_EQ(layers.found(asked), 0) << "the window's blocks of the first 24 tokens are still there";
  const std::optional<PromotionTicket> ticket = layers.promote(asked, 24);
  ASSERT_TRUE(ticket.has_value());
  EXPECT_GE(ticket->tokens_after, kBlock);
  EXPECT_GE(layers.found(asked), ticket->tokens_after);
}

TEST(KvPromotion, AWindowIsWholeWhereTheLookUpEndsNotWhereATailDoes) {
  // At 47 tokens a window of 32 begins with block 1; at 46, where the look-up ends, with block 0.
  Layers layers({{5, {}, kBlockBytes}, {4, {.window = 32}, kBlockBytes}});
  const std::vector<TokenId> asked = prompt(1000, 47);
  const std::span<const TokenId> wanted = std::span(asked).first(46);
  layers.compute_and_release(asked);
  layers.compute_and_release(prompt(2000, 80));
  ASSERT_EQ(layers.found(wanted), 0);
  const std::optional<PromotionTicket> ticket = layers.promote(asked, 46);
  ASSERT_TRUE(ticket.has_value());
  EXPECT_EQ(ticket->tokens_after, 46);
  EXPECT_EQ(layers.found(wanted), 46);
}

}  // namespace
}  // namespace quipu
