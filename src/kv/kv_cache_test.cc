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

// What stands for the keys and values of a token: they depend on all tokens up to it.
std::vector<uint64_t> prefix_hashes(const std::vector<TokenId>& tokens) {
  std::vector<uint64_t> hashes;
  uint64_t hash = 1469598103934665603ull;
  for (const TokenId token : tokens)
    hashes.push_back(hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211ull);
  return hashes;
}

struct TestSequence {
  TestSequence(const KvCache& cache, std::vector<TokenId> all)
      : tokens(std::move(all)), kv(cache.make_sequence()) {}
  std::vector<TokenId> tokens;  // the first kv.num_tokens() of them are computed
  SequenceKv kv;
};

class CacheModel {
 public:
  CacheModel(std::vector<KvGroupConfig> groups, const std::string& policy)
      : cache({.groups = groups, .block_tokens = kBlock, .fingerprint = "test", .policy = policy},
              clock),
        groups_(std::move(groups)) {
    for (const KvGroupConfig& group : groups_)
      slots_.emplace_back(static_cast<size_t>(group.total_blocks) * kBlock, 0);
  }
  CacheModel(int blocks, const std::string& policy)
      : CacheModel(std::vector<KvGroupConfig>{{blocks, {}}}, policy) {}

  TestSequence sequence(std::vector<TokenId> tokens) const { return {cache, std::move(tokens)}; }

  int64_t begin(TestSequence& sequence, int64_t reuse_max) {
    std::vector<KvCopy> copies;
    cache.begin(sequence.kv, sequence.tokens, reuse_max, copies);
    perform(copies);
    return sequence.kv.num_tokens();
  }

  bool compute(TestSequence& sequence, int64_t count) {
    const int64_t begin = sequence.kv.num_tokens();
    if (!cache.reserve(sequence.kv, begin + count)) return false;
    const std::vector<uint64_t> hashes = prefix_hashes(sequence.tokens);
    for (size_t group = 0; group < slots_.size(); ++group) {
      const BlockTable& table = sequence.kv.tables[group];
      for (int64_t p = begin; p < begin + count; ++p) {
        EXPECT_FALSE(table.block_is_shared(static_cast<int>(p / kBlock)))
            << "a write into a shared block";
        slots_[group][static_cast<size_t>(table.slot(p))] = hashes[static_cast<size_t>(p)];
      }
    }
    cache.append(sequence.kv, sequence.tokens, count);
    return true;
  }

  void truncate(TestSequence& sequence, int64_t count) {
    std::vector<KvCopy> copies;
    cache.truncate(sequence.kv, count, copies);
    EXPECT_LE(sequence.kv.num_tokens(), count);
    perform(copies);
  }

  bool fork(const TestSequence& source, TestSequence& fork) {
    std::vector<KvCopy> copies;
    if (!cache.fork(source.kv, fork.kv, copies)) return false;
    perform(copies);
    return true;
  }

  void release(TestSequence& sequence) { cache.release(sequence.kv, sequence.tokens); }

  // What the next token sees in each group is there, and was computed after the same tokens.
  void check(const TestSequence& sequence) const {
    const std::vector<uint64_t> hashes = prefix_hashes(sequence.tokens);
    const int64_t count = sequence.kv.num_tokens();
    for (size_t group = 0; group < slots_.size(); ++group) {
      const KvLifetime& lifetime = groups_[group].lifetime;
      const BlockTable& table = sequence.kv.tables[group];
      ASSERT_EQ(table.num_tokens(), count);
      for (int64_t p = 0; p < count; ++p) {
        if (p >= lifetime.sinks && p < lifetime.first_seen(count)) continue;
        ASSERT_TRUE(table.has_block(static_cast<int>(p / kBlock)))
            << "group " << group << ", position " << p << " of " << count;
        ASSERT_EQ(slots_[group][static_cast<size_t>(table.slot(p))], hashes[static_cast<size_t>(p)])
            << "group " << group << ", position " << p << " of " << count;
      }
      if (lifetime.is_windowed()) {
        const int sinks = sink_blocks(lifetime, kBlock);
        ASSERT_LE(table.first_needed(count), std::max(table.first_after_gap(), sinks));
      }
    }
  }

  void expect_all_free() {
    cache.clear();
    for (int group = 0; group < cache.num_groups(); ++group)
      EXPECT_EQ(cache.free_blocks(group), cache.total_blocks(group)) << "group " << group;
  }

  FakeClock clock;
  KvCache cache;

 private:
  void perform(const std::vector<KvCopy>& copies) {
    for (const KvCopy& copy : copies) {
      std::vector<uint64_t>& slots = slots_[static_cast<size_t>(copy.group)];
      std::copy_n(slots.begin() + copy.from.value() * kBlock, kBlock,
                  slots.begin() + copy.to.value() * kBlock);
    }
  }

  std::vector<KvGroupConfig> groups_;
  std::vector<std::vector<uint64_t>> slots_;  // SHAPE: [groups][slots]
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

struct RandomCase {
  const char* name;
  const char* policy;
  std::vector<KvGroupConfig> groups;
};

class KvCacheRandom : public testing::TestWithParam<RandomCase> {};

TEST_P(KvCacheRandom, EverySequenceFindsItsTokensWhateverHappens) {
  CacheModel model(GetParam().groups, GetParam().policy);
  Random random(17);
  std::vector<std::unique_ptr<TestSequence>> live;
  std::vector<NodeId> pinned;
  const char* kSalts[] = {"", "tenant"};
  // QUIPU_KV_TEST_OPERATIONS: the nightly form asks for 10 million.
  const char* wanted = std::getenv("QUIPU_KV_TEST_OPERATIONS");
  const int64_t operations = wanted != nullptr ? std::atoll(wanted) : 40'000;
  int64_t recomputed = 0;
  for (int64_t step = 0; step < operations; ++step) {
    const uint64_t action = random.next_below(10);
    const size_t pick = live.empty() ? 0 : random.next_below(live.size());
    if (live.empty() || (action == 0 && live.size() < 8)) {
      auto sequence = std::make_unique<TestSequence>(
          model.cache, random_tokens(random, 1 + random.next_below(200)));
      sequence->kv.salt = kSalts[random.next_below(2)];
      if (random.next_below(10) == 0)
        sequence->kv.retention.expires_ns = model.clock.now_ns() + 500;
      sequence->kv.retention.priority = static_cast<int>(random.next_below(2));
      const int64_t expected = model.cache.match_length(
          sequence->kv, std::span(sequence->tokens).first(sequence->tokens.size() - 1));
      const int64_t reused =
          model.begin(*sequence, static_cast<int64_t>(sequence->tokens.size()) - 1);
      ASSERT_LE(reused, expected);
      // Only a copy can fail, for want of a block; a window may then begin too late for the rest.
      if (model.cache.num_groups() == 1 && !GetParam().groups[0].lifetime.is_windowed()) {
        ASSERT_GE(reused, expected / kBlock * kBlock);
      }
      live.push_back(std::move(sequence));
    } else if (action < 6) {
      TestSequence& sequence = *live[pick];
      const int64_t left = static_cast<int64_t>(sequence.tokens.size()) - sequence.kv.num_tokens();
      if (left > 0)
        model.compute(sequence, 1 + static_cast<int64_t>(random.next_below(
                                        static_cast<uint64_t>(std::min<int64_t>(left, 40)))));
    } else if (action == 6) {
      TestSequence& sequence = *live[pick];
      const int64_t keep = static_cast<int64_t>(
          random.next_below(static_cast<uint64_t>(sequence.kv.num_tokens()) + 1));
      model.truncate(sequence, keep);
      recomputed += keep - sequence.kv.num_tokens();
      sequence.tokens.resize(static_cast<size_t>(keep));
      for (const TokenId token : random_tokens(random, 30)) sequence.tokens.push_back(token);
    } else if (action == 7 && live.size() < 8) {
      auto fork = std::make_unique<TestSequence>(model.cache, live[pick]->tokens);
      if (model.fork(*live[pick], *fork)) {
        fork->tokens.resize(static_cast<size_t>(fork->kv.num_tokens()));
        for (const TokenId token : random_tokens(random, 20)) fork->tokens.push_back(token);
        live.push_back(std::move(fork));
      }
    } else if (action == 8 && random.next_below(20) == 0) {
      for (const NodeId node : pinned) model.cache.index().unpin(node, kBlock);
      pinned.clear();
      if (!live[pick]->kv.path.empty()) {
        pinned.push_back(live[pick]->kv.path.back());
        model.cache.index().pin(pinned.back(), kBlock);
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
  const KvCounters& counters = model.cache.counters();
  EXPECT_GT(counters.blocks_folded, 0);
  EXPECT_GT(counters.tails_taken, 0);
  EXPECT_GT(counters.blocks_copied, 0);
  EXPECT_GT(counters.tokens_reused, 0);
  bool windowed = false;
  for (const KvGroupConfig& group : GetParam().groups) windowed |= group.lifetime.is_windowed();
  EXPECT_EQ(counters.window_blocks_left > 0, windowed);
  EXPECT_EQ(counters.window_blocks_evicted > 0, windowed);
  EXPECT_EQ(recomputed > 0, windowed) << "no truncation met a window that was gone";
  EXPECT_EQ(counters.blocks_evicted > 0, !GetParam().groups[0].lifetime.is_windowed());
  for (const NodeId node : pinned) model.cache.index().unpin(node, kBlock);
  for (const auto& sequence : live) model.release(*sequence);
  model.expect_all_free();
}

INSTANTIATE_TEST_SUITE_P(
    Cases, KvCacheRandom,
    testing::Values(RandomCase{"lru", "lru", {{60, {}}}}, RandomCase{"cost", "cost", {{60, {}}}},
                    RandomCase{"mixed", "cost", {{60, {}}, {30, {.window = 40}}}},
                    RandomCase{"mixed_lru", "lru", {{60, {}}, {24, {.window = 7}}}},
                    RandomCase{"windowed", "cost", {{30, {.window = 33}}}},
                    RandomCase{"three",
                               "cost",
                               {{60, {}}, {24, {.window = 1}}, {40, {.window = 50, .sinks = 20}}}}),
    [](const auto& test) { return test.param.name; });

// Without eviction the match must be exactly the longest common beginning with anything kept.
TEST(KvCache, TheMatchIsTheLongestTokenForToken) {
  CacheModel model(4000, "lru");
  Random random(5);
  std::vector<std::vector<TokenId>> kept;
  for (int round = 0; round < 300; ++round) {
    TestSequence sequence = model.sequence(random_tokens(random, 1 + random.next_below(150)));
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
        sequence, static_cast<int64_t>(sequence.tokens.size()) - sequence.kv.num_tokens()));
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
      sequence, static_cast<int64_t>(sequence.tokens.size()) - sequence.kv.num_tokens()));
  model.release(sequence);
}

TEST(KvCache, AFinishedTailIsContinuedWithoutACopy) {
  CacheModel model(10, "lru");
  TestSequence first = model.sequence(run_of(0, 20));
  compute_and_release(model, first);
  TestSequence next = model.sequence(run_of(0, 40));
  EXPECT_EQ(model.begin(next, 39), 20);
  EXPECT_EQ(model.cache.counters().tails_taken, 1);
  EXPECT_EQ(model.cache.counters().blocks_copied, 0);
  model.release(next);
}

TEST(KvCache, APartlyMatchingBlockIsCopiedUpToTheMatch) {
  CacheModel model(10, "lru");
  TestSequence first = model.sequence(run_of(0, 32));
  compute_and_release(model, first);
  std::vector<TokenId> other = run_of(0, 32);
  other[21] = 999;
  TestSequence second = model.sequence(other);
  EXPECT_EQ(model.begin(second, 31), 21);
  EXPECT_EQ(model.cache.counters().blocks_copied, 1);
  model.check(second);
  model.release(second);
}

TEST(KvCache, BlocksComputedTwiceAreFolded) {
  CacheModel model(10, "lru");
  TestSequence a = model.sequence(run_of(0, 16));
  TestSequence b = model.sequence(run_of(0, 16));
  model.begin(a, 15);
  model.begin(b, 15);
  ASSERT_TRUE(model.compute(a, 16));
  ASSERT_TRUE(model.compute(b, 16));
  EXPECT_EQ(a.kv.tables[0].block(0), b.kv.tables[0].block(0));
  EXPECT_EQ(model.cache.counters().blocks_folded, 1);
  EXPECT_EQ(model.cache.block_states().closed, 1);
  model.release(a);
  model.release(b);
}

TEST(KvCache, SaltsShareNothing) {
  CacheModel model(10, "lru");
  TestSequence a = model.sequence(run_of(0, 32));
  TestSequence b = model.sequence(run_of(0, 32));
  a.kv.salt = "a";
  b.kv.salt = "b";
  compute_and_release(model, a);
  EXPECT_EQ(model.begin(b, 31), 0);
  model.release(b);
}

TEST(KvCache, LruAndPriorityDecideWhoGoes) {
  CacheModel model(3, "lru");
  TestSequence precious = model.sequence(run_of(0, 16));
  TestSequence old = model.sequence(run_of(100, 16));
  TestSequence recent = model.sequence(run_of(200, 16));
  precious.kv.retention.priority = 1;
  compute_and_release(model, precious);
  compute_and_release(model, old);
  compute_and_release(model, recent);
  TestSequence newcomer = model.sequence(run_of(300, 16));
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
  TestSequence brief = model.sequence(run_of(0, 16));
  TestSequence lasting = model.sequence(run_of(100, 16));
  TestSequence newcomer = model.sequence(run_of(200, 16));
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
  TestSequence pinned = model.sequence(run_of(0, 32));
  TestSequence cached = model.sequence(run_of(100, 16));
  compute_and_release(model, pinned);
  const PrefixIndex::Match match =
      model.cache.index().match(model.cache.index().root(""), pinned.tokens);
  model.cache.index().pin(match.path.back(), kBlock);
  compute_and_release(model, cached);
  TestSequence large = model.sequence(run_of(200, 80));
  model.begin(large, 79);
  EXPECT_FALSE(model.cache.reserve(large.kv, 80));  // 5 blocks of 4
  EXPECT_EQ(model.cache.match_length(cached.kv, cached.tokens), 16);
  TestSequence fits = model.sequence(run_of(300, 32));
  model.begin(fits, 31);
  EXPECT_TRUE(model.cache.reserve(fits.kv, 32));  // the free block, and the unpinned one
  EXPECT_EQ(model.cache.match_length(pinned.kv, pinned.tokens), 32);
  model.release(fits);
  model.cache.index().unpin(match.path.back(), kBlock);
}

// What other salts have is for the operator: in the counters and in explain(), not in begin().
TEST(KvCache, CountsWhatOtherSaltsHaveAndTellsTenantsNothing) {
  CacheModel model(40, "lru");
  std::vector<TokenId> prompt(3 * kBlock);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i);
  const auto misses = [&](MissReason reason) {
    return model.cache.counters().misses[static_cast<size_t>(reason)];
  };
  const auto ask = [&](const std::string& salt, const std::string& salts = "") {
    TestSequence sequence = model.sequence(prompt);
    sequence.kv.salt = salt;
    std::vector<KvCopy> copies;
    KvExplanation found = model.cache.begin(sequence.kv, prompt, 3 * kBlock - 1, copies);
    EXPECT_EQ(found.reason, MissReason::kNeverSeen) << salt;
    model.cache.explain(sequence.kv, prompt, 3 * kBlock - 1, salts, found);
    model.cache.release(sequence.kv, prompt);
    return found.reason;
  };
  EXPECT_EQ(ask("alice"), MissReason::kNeverSeen);
  TestSequence owner = model.sequence(prompt);
  owner.kv.salt = "alice";
  model.begin(owner, 0);
  ASSERT_TRUE(model.compute(owner, 3 * kBlock));
  EXPECT_EQ(misses(MissReason::kOtherSalt), 0);
  EXPECT_EQ(ask("bob"), MissReason::kOtherSalt);
  EXPECT_EQ(misses(MissReason::kOtherSalt), 1);
  // Within a tenant's own salts it finds what the tenant has, and nothing of others.
  EXPECT_EQ(ask("alex", "alex"), MissReason::kNeverSeen);
  EXPECT_EQ(ask("alex", "al"), MissReason::kOtherSalt);
  EXPECT_EQ(misses(MissReason::kOtherSalt), 3);  // the counters are the operator's
  // Behind more salts than begin() looks at, only explain() finds it; then it is counted, too.
  std::vector<TestSequence> others;
  for (int i = 0; i < 3 * KvCache::kSaltsLookedAt; ++i) {
    others.push_back(model.sequence(std::vector<TokenId>(kBlock, 900 + i)));
    others.back().kv.salt = fmt::format("other {}", i);
    model.begin(others.back(), 0);
    ASSERT_TRUE(model.compute(others.back(), kBlock));
  }
  EXPECT_EQ(ask("carol"), MissReason::kOtherSalt);
  EXPECT_EQ(misses(MissReason::kOtherSalt), 4);
  model.cache.release(owner.kv, owner.tokens);
  for (TestSequence& other : others) model.cache.release(other.kv, other.tokens);
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

// A salt costs nothing once nothing is kept under it: encoder-decoder models have one per input.
TEST(KvCache, ForgetsSaltsUnderWhichNothingIsKept) {
  CacheModel model(4, "lru");
  for (int i = 0; i < 1000; ++i) {
    TestSequence sequence = model.sequence(std::vector<TokenId>(20, i % 7));
    sequence.kv.salt = "input " + std::to_string(i);
    model.begin(sequence, 19);
    ASSERT_TRUE(model.compute(sequence, i % 3 == 0 ? 0 : 20));
    model.cache.release(sequence.kv, sequence.tokens);
    model.cache.check_invariants();
    ASSERT_LE(model.cache.index().num_roots(), 4);  // as many as there are blocks
  }
  EXPECT_GE(model.cache.index().num_roots(), 1);
}

}  // namespace
}  // namespace quipu
