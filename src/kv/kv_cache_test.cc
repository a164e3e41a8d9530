// The cache against a slow, obvious model: an array that says which token was written into which
// slot. Whatever a sequence believes to be computed must be found there, token for token.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "kv/kv_cache.h"

namespace quipu {
namespace {

constexpr int kBlock = 16;

struct TestSequence {
  explicit TestSequence(std::vector<TokenId> all) : tokens(std::move(all)), kv(kBlock) {}
  std::vector<TokenId> tokens;  // the first kv.table.num_tokens() of them are computed
  SequenceKv kv;
};

class CacheModel {
 public:
  CacheModel(int blocks, const std::string& policy)
      : cache({.total_blocks = blocks,
               .block_tokens = kBlock,
               .fingerprint = "test",
               .policy = policy},
              clock),
        slots_(static_cast<size_t>(blocks) * kBlock, -1) {}

  int64_t begin(TestSequence& sequence, int64_t reuse_max) {
    std::vector<BlockCopy> copies;
    cache.begin(sequence.kv, sequence.tokens, reuse_max, copies);
    perform(copies);
    return sequence.kv.table.num_tokens();
  }

  bool compute(TestSequence& sequence, int64_t count) {
    const int64_t begin = sequence.kv.table.num_tokens();
    if (!cache.reserve(sequence.kv, begin + count)) return false;
    for (int64_t p = begin; p < begin + count; ++p) {
      EXPECT_FALSE(sequence.kv.table.block_is_shared(static_cast<int>(p / kBlock)))
          << "a write into a shared block";
      slots_[static_cast<size_t>(sequence.kv.table.slot(p))] =
          sequence.tokens[static_cast<size_t>(p)];
    }
    cache.append(sequence.kv, sequence.tokens, count);
    return true;
  }

  bool truncate(TestSequence& sequence, int64_t count) {
    std::vector<BlockCopy> copies;
    if (!cache.truncate(sequence.kv, count, copies)) return false;
    perform(copies);
    return true;
  }

  bool fork(const TestSequence& source, TestSequence& fork) {
    std::vector<BlockCopy> copies;
    if (!cache.fork(source.kv, fork.kv, copies)) return false;
    perform(copies);
    return true;
  }

  void release(TestSequence& sequence) { cache.release(sequence.kv, sequence.tokens); }

  void check(const TestSequence& sequence) const {
    for (int64_t p = 0; p < sequence.kv.table.num_tokens(); ++p) {
      ASSERT_EQ(slots_[static_cast<size_t>(sequence.kv.table.slot(p))],
                sequence.tokens[static_cast<size_t>(p)])
          << "position " << p;
    }
  }

  FakeClock clock;
  KvCache cache;

 private:
  void perform(const std::vector<BlockCopy>& copies) {
    for (const BlockCopy& copy : copies) {
      std::copy_n(slots_.begin() + copy.from.value() * kBlock, kBlock,
                  slots_.begin() + copy.to.value() * kBlock);
    }
  }

  std::vector<TokenId> slots_;
};

// Prompts that share beginnings of every length: a walk that seldom leaves the family's path.
std::vector<TokenId> random_tokens(Random& random, size_t length) {
  std::vector<TokenId> tokens;
  const uint64_t family = random.next_below(3);
  uint64_t detour = 0;
  for (size_t i = 0; i < length; ++i) {
    if (random.next_below(40) == 0) detour = 1 + random.next_below(3);
    tokens.push_back(static_cast<TokenId>(family * 1000 + detour * 100 + i % 90));
  }
  return tokens;
}

class KvCacheRandom : public testing::TestWithParam<const char*> {};

TEST_P(KvCacheRandom, EverySequenceFindsItsTokensWhateverHappens) {
  CacheModel model(60, GetParam());
  Random random(17);
  std::vector<std::unique_ptr<TestSequence>> live;
  const char* kSalts[] = {"", "tenant"};
  // QUIPU_KV_TEST_OPERATIONS: the nightly form asks for 10 million.
  const char* wanted = std::getenv("QUIPU_KV_TEST_OPERATIONS");
  const int64_t operations = wanted != nullptr ? std::atoll(wanted) : 100'000;
  for (int64_t step = 0; step < operations; ++step) {
    const uint64_t action = random.next_below(10);
    const size_t pick = live.empty() ? 0 : random.next_below(live.size());
    if (live.empty() || (action == 0 && live.size() < 8)) {
      auto sequence =
          std::make_unique<TestSequence>(random_tokens(random, 1 + random.next_below(200)));
      sequence->kv.salt = kSalts[random.next_below(2)];
      if (random.next_below(10) == 0)
        sequence->kv.retention.expires_ns = model.clock.now_ns() + 500;
      sequence->kv.retention.priority = static_cast<int>(random.next_below(2));
      const int64_t expected = model.cache.match_length(
          sequence->kv, std::span(sequence->tokens).first(sequence->tokens.size() - 1));
      const int64_t reused =
          model.begin(*sequence, static_cast<int64_t>(sequence->tokens.size()) - 1);
      ASSERT_LE(reused, expected);
      ASSERT_GE(reused, expected / kBlock * kBlock);  // only a copy can fail, for want of a block
      live.push_back(std::move(sequence));
    } else if (action < 6) {
      TestSequence& sequence = *live[pick];
      const int64_t left =
          static_cast<int64_t>(sequence.tokens.size()) - sequence.kv.table.num_tokens();
      if (left > 0)
        model.compute(sequence, 1 + static_cast<int64_t>(random.next_below(
                                        static_cast<uint64_t>(std::min<int64_t>(left, 40)))));
    } else if (action == 6) {
      TestSequence& sequence = *live[pick];
      const int64_t keep = static_cast<int64_t>(
          random.next_below(static_cast<uint64_t>(sequence.kv.table.num_tokens()) + 1));
      if (model.truncate(sequence, keep)) {
        sequence.tokens.resize(static_cast<size_t>(keep));
        for (const TokenId token : random_tokens(random, 30)) sequence.tokens.push_back(token);
      }
    } else if (action == 7 && live.size() < 8) {
      auto fork = std::make_unique<TestSequence>(live[pick]->tokens);
      if (model.fork(*live[pick], *fork)) {
        fork->tokens.resize(static_cast<size_t>(fork->kv.table.num_tokens()));
        for (const TokenId token : random_tokens(random, 20)) fork->tokens.push_back(token);
        live.push_back(std::move(fork));
      }
    } else if (action >= 8) {
      model.release(*live[pick]);
      live.erase(live.begin() + static_cast<ptrdiff_t>(pick));
    }
    model.clock.advance_ns(1);
    if (step % 16 == 0) {
      model.cache.check_invariants();
      for (const auto& sequence : live) model.check(*sequence);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
  EXPECT_GT(model.cache.counters().blocks_evicted, 0);
  EXPECT_GT(model.cache.counters().blocks_folded, 0);
  EXPECT_GT(model.cache.counters().tails_taken, 0);
  EXPECT_GT(model.cache.counters().blocks_copied, 0);
  for (const auto& sequence : live) model.release(*sequence);
  model.cache.clear();
  EXPECT_EQ(model.cache.free_blocks(), model.cache.total_blocks());
}

INSTANTIATE_TEST_SUITE_P(Policies, KvCacheRandom, testing::Values("lru", "cost"));

// Without eviction the match must be exactly the longest common beginning with anything kept.
TEST(KvCache, TheMatchIsTheLongestTokenForToken) {
  CacheModel model(4000, "lru");
  Random random(5);
  std::vector<std::vector<TokenId>> kept;
  for (int round = 0; round < 300; ++round) {
    TestSequence sequence(random_tokens(random, 1 + random.next_below(150)));
    int64_t longest = 0;
    for (const auto& other : kept) {
      const auto limit = static_cast<ptrdiff_t>(std::min(other.size(), sequence.tokens.size()));
      longest = std::max<int64_t>(
          longest,
          std::mismatch(other.begin(), other.begin() + limit, sequence.tokens.begin()).first -
              other.begin());
    }
    ASSERT_EQ(model.cache.match_length(sequence.kv, sequence.tokens), longest);
    model.begin(sequence, static_cast<int64_t>(sequence.tokens.size()) - 1);
    ASSERT_TRUE(model.compute(
        sequence, static_cast<int64_t>(sequence.tokens.size()) - sequence.kv.table.num_tokens()));
    model.check(sequence);
    model.release(sequence);
    kept.push_back(sequence.tokens);
    model.cache.check_invariants();
  }
}

std::vector<TokenId> run_of(TokenId first, size_t count) {
  std::vector<TokenId> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = first + static_cast<TokenId>(i);
  return tokens;
}

void compute_and_release(CacheModel& model, TestSequence& sequence) {
  model.begin(sequence, static_cast<int64_t>(sequence.tokens.size()) - 1);
  ASSERT_TRUE(model.compute(
      sequence, static_cast<int64_t>(sequence.tokens.size()) - sequence.kv.table.num_tokens()));
  model.release(sequence);
}

TEST(KvCache, AFinishedTailIsContinuedWithoutACopy) {
  CacheModel model(10, "lru");
  TestSequence first(run_of(0, 20));
  compute_and_release(model, first);
  TestSequence next(run_of(0, 40));
  EXPECT_EQ(model.begin(next, 39), 20);
  EXPECT_EQ(model.cache.counters().tails_taken, 1);
  EXPECT_EQ(model.cache.counters().blocks_copied, 0);
  model.release(next);
}

TEST(KvCache, APartlyMatchingBlockIsCopiedUpToTheMatch) {
  CacheModel model(10, "lru");
  TestSequence first(run_of(0, 32));
  compute_and_release(model, first);
  std::vector<TokenId> other = run_of(0, 32);
  other[21] = 999;
  TestSequence second(other);
  EXPECT_EQ(model.begin(second, 31), 21);
  EXPECT_EQ(model.cache.counters().blocks_copied, 1);
  model.check(second);
  model.release(second);
}

TEST(KvCache, BlocksComputedTwiceAreFolded) {
  CacheModel model(10, "lru");
  TestSequence a(run_of(0, 16)), b(run_of(0, 16));
  model.begin(a, 15);
  model.begin(b, 15);
  ASSERT_TRUE(model.compute(a, 16));
  ASSERT_TRUE(model.compute(b, 16));
  EXPECT_EQ(a.kv.table.block(0), b.kv.table.block(0));
  EXPECT_EQ(model.cache.counters().blocks_folded, 1);
  EXPECT_EQ(model.cache.block_states().closed, 1);
  model.release(a);
  model.release(b);
}

TEST(KvCache, SaltsShareNothing) {
  CacheModel model(10, "lru");
  TestSequence a(run_of(0, 32)), b(run_of(0, 32));
  a.kv.salt = "a";
  b.kv.salt = "b";
  compute_and_release(model, a);
  EXPECT_EQ(model.begin(b, 31), 0);
  model.release(b);
}

TEST(KvCache, LruAndPriorityDecideWhoGoes) {
  CacheModel model(3, "lru");
  TestSequence precious(run_of(0, 16)), old(run_of(100, 16)), recent(run_of(200, 16));
  precious.kv.retention.priority = 1;
  compute_and_release(model, precious);
  compute_and_release(model, old);
  compute_and_release(model, recent);
  TestSequence newcomer(run_of(300, 16));
  compute_and_release(model, newcomer);
  const auto cached = [&](const TestSequence& s) {
    return model.cache.match_length(s.kv, s.tokens);
  };
  EXPECT_EQ(cached(precious), 16);
  EXPECT_EQ(cached(old), 0);
  EXPECT_EQ(cached(recent), 16);
}

TEST(KvCache, WhatExpiredGoesFirstWhateverItsPriority) {
  CacheModel model(2, "lru");
  TestSequence brief(run_of(0, 16)), lasting(run_of(100, 16)), newcomer(run_of(200, 16));
  brief.kv.retention = {.priority = 9, .expires_ns = 50};
  compute_and_release(model, brief);
  compute_and_release(model, lasting);
  model.clock.advance_ns(100);
  compute_and_release(model, newcomer);
  EXPECT_EQ(model.cache.match_length(brief.kv, brief.tokens), 0);
  EXPECT_EQ(model.cache.match_length(lasting.kv, lasting.tokens), 16);
}

TEST(KvCache, PinnedBlocksStayAndARequestThatCannotFitEvictsNothing) {
  CacheModel model(4, "lru");
  TestSequence pinned(run_of(0, 32)), cached(run_of(100, 16));
  compute_and_release(model, pinned);
  const PrefixIndex::Match match =
      model.cache.index().match(model.cache.index().root(""), pinned.tokens);
  model.cache.index().pin(match.path.back());
  compute_and_release(model, cached);
  TestSequence large(run_of(200, 80));
  model.begin(large, 79);
  EXPECT_FALSE(model.cache.reserve(large.kv, 80));  // 5 blocks of 4
  EXPECT_EQ(model.cache.match_length(cached.kv, cached.tokens), 16);
  TestSequence fits(run_of(300, 32));
  model.begin(fits, 31);
  EXPECT_TRUE(model.cache.reserve(fits.kv, 32));  // the free block, and the unpinned one
  EXPECT_EQ(model.cache.match_length(pinned.kv, pinned.tokens), 32);
  model.release(fits);
  model.cache.index().unpin(match.path.back());
}

TEST(BlockKey, ChainsEverythingThatDecidesTheBytes) {
  const std::vector<TokenId> tokens = {1, 2, 3};
  const BlockKey root = root_key("model", "salt");
  EXPECT_NE(root, root_key("model", "tlas"));
  EXPECT_NE(root_key("ab", "c"), root_key("a", "bc"));
  const BlockKey key = block_key(root, tokens);
  EXPECT_EQ(key, block_key(root, tokens));
  EXPECT_NE(key, block_key(root_key("model", ""), tokens));
  EXPECT_NE(block_key(key, tokens), key);
  EXPECT_EQ(key.to_hex().size(), 64u);
}

}  // namespace
}  // namespace quipu
