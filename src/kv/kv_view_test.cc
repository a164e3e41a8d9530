// What the views show against what the cache says of itself, after seeded random operations.
#include "kv/kv_view.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"

namespace quipu {
namespace {

constexpr int kBlock = 16;

std::vector<TokenId> tokens_from(int begin, int count) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(begin + i);
  return tokens;
}

class ViewTest : public testing::Test {
 protected:
  void make(std::vector<KvGroupConfig> groups) {
    cache_ = std::make_unique<KvCache>(
        KvCacheConfig{.groups = std::move(groups), .block_tokens = kBlock, .fingerprint = "test"},
        clock_);
  }
  // Computes all of a sequence's tokens. False when they do not fit.
  bool compute(SequenceKv& sequence, const std::vector<TokenId>& tokens) {
    std::vector<KvCopy> copies;
    cache_->begin(sequence, tokens, static_cast<int64_t>(tokens.size()) - 1, copies);
    while (sequence.num_tokens() < static_cast<int64_t>(tokens.size())) {
      const int64_t count =
          std::min<int64_t>(8, static_cast<int64_t>(tokens.size()) - sequence.num_tokens());
      if (!cache_->reserve(sequence, sequence.num_tokens() + count)) return false;
      cache_->append(sequence, tokens, count);
    }
    return true;
  }
  void finish(const std::vector<TokenId>& tokens, const std::string& salt = "") {
    SequenceKv sequence = cache_->make_sequence();
    sequence.salt = salt;
    ASSERT_TRUE(compute(sequence, tokens));
    cache_->release(sequence, tokens);
  }
  void expect_counts_agree() const {
    for (int group = 0; group < cache_->num_groups(); ++group) {
      std::array<int, kKvBlockStates> counts{};
      for (const KvBlockView& block : view_blocks(*cache_, group, [](auto) { return 0; })) {
        ++counts[static_cast<size_t>(block.state)];
        EXPECT_EQ(block.users > 0, block.state == KvBlockState::kClosed);
      }
      const KvBlockStates states = cache_->block_states(group);
      EXPECT_EQ(counts, (std::array{states.free, states.open, states.closed, states.cached,
                                    states.in_flight}));
    }
  }

  FakeClock clock_;
  std::unique_ptr<KvCache> cache_;
};

TEST_F(ViewTest, StatesAddUpToTheCachesOwnWhateverHappens) {
  KvLifetime windowed;
  windowed.window = 24;
  make({{60, {}}, {30, windowed}});
  Random random(7);
  std::map<int, std::pair<SequenceKv, std::vector<TokenId>>> running;
  int64_t shared = 0, seen_open = 0;
  for (int i = 0; i < 400; ++i) {
    clock_.advance_ns(1'000'000);
    if (running.size() < 3 && random.next_below(3) > 0) {
      std::vector<TokenId> tokens = tokens_from(static_cast<int>(random.next_below(3)) * 1000,
                                                20 + static_cast<int>(random.next_below(60)));
      SequenceKv sequence = cache_->make_sequence();
      sequence.salt = random.next_below(2) == 0 ? "a" : "b";
      const bool fits = compute(sequence, tokens);
      if (fits)
        running.emplace(i, std::pair(std::move(sequence), std::move(tokens)));
      else
        cache_->release(sequence, tokens);
    } else if (!running.empty()) {
      auto& [sequence, tokens] = running.begin()->second;
      cache_->release(sequence, tokens);
      running.erase(running.begin());
    }
    expect_counts_agree();
    for (const KvBlockView& block : view_blocks(*cache_, 0, [](auto) { return 0; })) {
      shared += block.users > 1;
      seen_open += block.state == KvBlockState::kOpen;
    }
  }
  EXPECT_GT(shared, 0);
  EXPECT_GT(seen_open, 0);
  for (auto& [i, held] : running) cache_->release(held.first, held.second);
}

TEST_F(ViewTest, BlocksAndTreeSayWhoseTheyAre) {
  make({{64, {}}});
  finish(tokens_from(0, 40), "a");
  finish(tokens_from(0, 40), "b");
  const auto owner_of = [](std::string_view salt) { return salt == "a" ? 1 : kNoOwner; };
  int mine = 0, others = 0;
  for (const KvBlockView& block : view_blocks(*cache_, 0, owner_of)) {
    if (block.state != KvBlockState::kCached) continue;
    ++(block.owner == 1 ? mine : others);
  }
  EXPECT_EQ(mine, 3);  // two whole ones and a tail
  EXPECT_EQ(others, 3);
  const std::vector<KvRunView> runs = view_tree(*cache_, owner_of);
  ASSERT_EQ(runs.size(), 1u);  // nothing of the other salt
  EXPECT_EQ(runs[0].owner, 1);
  EXPECT_EQ(runs[0].tokens, 40);
  EXPECT_EQ(runs[0].first_tokens, tokens_from(0, 24));
}

TEST_F(ViewTest, TheTreeForksWherePromptsDiffer) {
  make({{64, {}}});
  std::vector<TokenId> left = tokens_from(0, 64), right = tokens_from(0, 32);
  for (const TokenId token : tokens_from(500, 32)) right.push_back(token);
  finish(left);
  clock_.advance_ns(1000);
  finish(right);
  const std::vector<KvRunView> runs = view_tree(*cache_, [](auto) { return 0; });
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0].tokens, 32);
  EXPECT_EQ(runs[0].hits, 1);
  EXPECT_EQ(runs[0].hidden_children, 0);
  EXPECT_EQ(runs[1].parent, 0);
  EXPECT_EQ(runs[1].first_tokens.front(), 500);  // the one used last comes first
  EXPECT_EQ(runs[2].parent, 0);
  EXPECT_EQ(runs[2].first_tokens.front(), 32);
}

TEST_F(ViewTest, TheTreeIsCutToItsLimit) {
  make({{256, {}}});
  for (int i = 0; i < 20; ++i) {
    clock_.advance_ns(1000);
    std::vector<TokenId> tokens = tokens_from(0, 16);
    for (const TokenId token : tokens_from(1000 * (i + 1), 20)) tokens.push_back(token);
    finish(tokens);
  }
  const std::vector<KvRunView> runs =
      view_tree(*cache_, [](auto) { return 0; }, {.runs_max = 5, .first_tokens_max = 2});
  ASSERT_EQ(runs.size(), 5u);
  EXPECT_EQ(runs[0].hidden_children, 16);
  std::set<TokenId> shown;
  for (size_t i = 1; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i].first_tokens.size(), 2u);
    shown.insert(runs[i].first_tokens.front());
  }
  EXPECT_EQ(shown, (std::set<TokenId>{17000, 18000, 19000, 20000}));
}

}  // namespace
}  // namespace quipu
