#include "kv/kv_pins.h"

#include <gtest/gtest.h>

namespace quipu {
namespace {

constexpr int kBlock = 16;
constexpr int64_t kLimit = 128;  // tokens of a request: 8 blocks

std::vector<TokenId> run_of(TokenId first, int count) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

KvPin pin_of(const std::string& name, std::vector<TokenId> tokens, const std::string& owner = "a") {
  return {.name = name,
          .owner = owner,
          .salt = owner + "/",
          .label = {},
          .parent = {},
          .tokens = std::move(tokens)};
}

class KvPinsTest : public testing::Test {
 protected:
  // Computes tokens as a request of the owner, whose blocks are then cached.
  bool compute(const std::vector<TokenId>& tokens, const std::string& owner = "a") {
    SequenceKv sequence = cache_.make_sequence();
    sequence.salt = owner + "/";
    std::vector<KvCopy> copies;
    cache_.begin(sequence, tokens, static_cast<int64_t>(tokens.size()) - 1, copies);
    const auto count = static_cast<int64_t>(tokens.size());
    if (!cache_.reserve(sequence, count)) {
      cache_.release(sequence, tokens);
      return false;
    }
    cache_.append(sequence, tokens, count - sequence.num_tokens());
    cache_.release(sequence, tokens);
    cache_.check_invariants();
    pins_.check_invariants();
    return true;
  }
  int64_t cached(const std::vector<TokenId>& tokens, const std::string& owner = "a") {
    SequenceKv asking = cache_.make_sequence();
    asking.salt = owner + "/";
    return cache_.match_length(asking, tokens);
  }

  FakeClock clock_;
  KvCache cache_{{.groups = {{20, {}, 64}}, .block_tokens = kBlock, .policy = "lru"}, clock_};
  // Half of 20 blocks is 10; beside a request of 8 there would be room for 12. Two owners: 5 each.
  KvPins pins_{cache_, kLimit, {.share = 0.5, .owners = 2, .pins_per_owner_max = 3}, clock_};
};

TEST_F(KvPinsTest, WhatIsPinnedOutlivesEverythingElse) {
  const std::vector<TokenId> kept = run_of(0, 70);
  ASSERT_TRUE(compute(kept));
  ASSERT_EQ(pins_.pin(pin_of("p", kept)), KvPins::Outcome::kPinned);
  EXPECT_EQ(pins_.held_blocks(0), 5);
  for (int i = 1; i <= 40; ++i) ASSERT_TRUE(compute(run_of(1000 * i, 120))) << i;
  EXPECT_EQ(cached(kept), 70);
  EXPECT_TRUE(pins_.unpin("a", "p"));
  EXPECT_EQ(pins_.held_blocks(0), 0);
  for (int i = 1; i <= 10; ++i) ASSERT_TRUE(compute(run_of(1000 * i, 120)));
  EXPECT_EQ(cached(kept), 0);
}

TEST_F(KvPinsTest, BudgetsHoldAndCommonBeginningsCountOnce) {
  EXPECT_EQ(pins_.owner_budget(0), 5);
  EXPECT_EQ(pins_.tokens_max(), 80);
  std::vector<TokenId> left = run_of(0, 64), right = left;
  for (int i = 0; i < 16; ++i) left.push_back(900 + i), right.push_back(700 + i);
  ASSERT_TRUE(compute(left) && compute(right) && compute(run_of(5000, 10)));
  EXPECT_EQ(pins_.pin(pin_of("left", left)), KvPins::Outcome::kPinned);
  EXPECT_EQ(pins_.pin(pin_of("right", right)), KvPins::Outcome::kOverBudget);
  EXPECT_TRUE(pins_.unpin("a", "left"));
  left.resize(64);
  EXPECT_EQ(pins_.pin(pin_of("left", left)), KvPins::Outcome::kPinned);
  EXPECT_EQ(pins_.pin(pin_of("right", right)), KvPins::Outcome::kPinned);
  EXPECT_EQ(pins_.held_blocks_of("a", 0), 5);
  // Another owner's part is its own.
  ASSERT_TRUE(compute(run_of(0, 80), "b"));
  EXPECT_EQ(pins_.pin(pin_of("b", run_of(0, 80), "b")), KvPins::Outcome::kPinned);
  EXPECT_EQ(pins_.held_blocks(0), 10);
  EXPECT_TRUE(compute(run_of(9000, kLimit)));  // the longest request fits beside all of them
  EXPECT_EQ(pins_.pin(pin_of("more", run_of(0, 20))), KvPins::Outcome::kPinned);
  EXPECT_EQ(pins_.pin(pin_of("most", run_of(0, 20))), KvPins::Outcome::kTooMany);
  EXPECT_EQ(pins_.counters().refused, 2);
  pins_.check_invariants();
}

TEST_F(KvPinsTest, OnlyWhatIsCachedIsPinned) {
  ASSERT_TRUE(compute(run_of(0, 40)));
  EXPECT_EQ(pins_.pin(pin_of("p", run_of(0, 41))), KvPins::Outcome::kNotCached);
  EXPECT_EQ(pins_.pin(pin_of("p", run_of(0, 40), "b")), KvPins::Outcome::kNotCached);
  EXPECT_EQ(cache_.index().num_roots(), 1);
  EXPECT_EQ(pins_.pin(pin_of("p", run_of(0, 7))), KvPins::Outcome::kPinned);  // part of a block
  EXPECT_EQ(pins_.num_pins(), 1);
}

// Nothing goes on from a pinned tail in place: it is copied, and goes when nobody needs it any
// more.
TEST_F(KvPinsTest, APinnedTailStaysUntilItIsUnpinned) {
  ASSERT_TRUE(compute(run_of(0, 40)));
  ASSERT_EQ(pins_.pin(pin_of("p", run_of(0, 40))), KvPins::Outcome::kPinned);
  ASSERT_TRUE(compute(run_of(0, 44)) && compute(run_of(0, 80)));
  EXPECT_EQ(cached(run_of(0, 80)), 80);
  const int blocks = cache_.index().num_blocks(0);
  EXPECT_TRUE(pins_.unpin("a", "p"));
  EXPECT_EQ(cache_.index().num_blocks(0), blocks - 1);
  cache_.check_invariants();
}

TEST_F(KvPinsTest, OwnersSeeTheirOwnAndPinsEndInTime) {
  ASSERT_TRUE(compute(run_of(0, 40)) && compute(run_of(0, 40), "b"));
  KvPin brief = pin_of("brief", run_of(0, 40));
  brief.expires_ns = clock_.now_ns() + 1000;
  ASSERT_EQ(pins_.pin(std::move(brief)), KvPins::Outcome::kPinned);
  ASSERT_EQ(pins_.pin(pin_of("lasting", run_of(0, 40), "b")), KvPins::Outcome::kPinned);
  EXPECT_EQ(pins_.list("a").size(), 1u);
  EXPECT_EQ(pins_.list("").size(), 2u);
  EXPECT_EQ(pins_.find("a", "lasting"), nullptr);
  EXPECT_NE(pins_.find("b", "lasting"), nullptr);
  EXPECT_FALSE(pins_.unpin("a", "lasting"));
  clock_.advance_ns(999);
  pins_.expire();
  EXPECT_EQ(pins_.num_pins(), 2);
  clock_.advance_ns(1);
  pins_.expire();
  EXPECT_EQ(pins_.num_pins(), 1);
  EXPECT_EQ(pins_.counters().expired, 1);
  EXPECT_FALSE(pins_.unpin("a", "brief"));
}

TEST(KvPins, APoolWithoutRoomToSpareHasNoBudget) {
  FakeClock clock;
  KvCache cache({.groups = {{8, {}, 64}}, .block_tokens = kBlock, .policy = "lru"}, clock);
  const KvPins pins(cache, kLimit, {.share = 1}, clock);
  EXPECT_EQ(pins.owner_budget(0), 0);
  EXPECT_EQ(pins.tokens_max(), 0);
}

// A look ahead finds what a request would, and leaves no trace.
TEST_F(KvPinsTest, PreviewsSayWhatABeginWouldFind) {
  std::vector<TokenId> tokens = run_of(0, 50);
  ASSERT_TRUE(compute(tokens));
  tokens.resize(40);
  for (int i = 0; i < 30; ++i) tokens.push_back(800 + i);
  const int64_t lookups = cache_.counters().lookups;
  const KvCache::Preview preview = cache_.preview("a/", tokens, 69, "a");
  EXPECT_EQ(preview.found.shared, 32);
  EXPECT_EQ(preview.found.copied, 8);
  EXPECT_EQ(preview.found.reason, MissReason::kNeverSeen);
  EXPECT_EQ(preview.found.cached_token, 40);
  EXPECT_EQ(preview.tier_tokens, 40);
  EXPECT_EQ(cache_.preview("a/x", tokens, 69, "a").found.reason, MissReason::kOtherSalt);
  EXPECT_EQ(cache_.preview("b/", tokens, 69, "b").found.reason, MissReason::kNeverSeen);
  EXPECT_EQ(cache_.counters().lookups, lookups);
  EXPECT_EQ(cache_.index().num_roots(), 1);
  SequenceKv sequence = cache_.make_sequence();
  sequence.salt = "a/";
  std::vector<KvCopy> copies;
  const KvExplanation found = cache_.begin(sequence, tokens, 69, copies);
  EXPECT_EQ(found.reused(), preview.found.reused());
  cache_.release(sequence, tokens);
}

}  // namespace
}  // namespace quipu
