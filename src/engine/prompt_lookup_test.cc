#include "engine/prompt_lookup.h"

#include <gtest/gtest.h>

namespace quipu {
namespace {

std::vector<TokenId> guess(PromptLookup& lookup, const std::vector<TokenId>& tokens, int most,
                           double cost = 0.01) {
  std::vector<TokenId> draft = {99};
  lookup.propose(tokens, most, {.token = cost}, draft);
  return draft;
}

TEST(PromptLookup, GuessesWhatFollowedTheLongestEarlierMatch) {
  PromptLookup lookup;
  // "3 4 5" came before and was followed by 6 7 8; "4 5" alone came later and was followed by 1.
  EXPECT_EQ(guess(lookup, {1, 3, 4, 5, 6, 7, 8, 2, 4, 5, 1, 9, 3, 4, 5}, 3),
            (std::vector<TokenId>{6, 7, 8}));
  // Of equal matches the latest.
  EXPECT_EQ(guess(lookup, {4, 5, 6, 0, 4, 5, 7, 0, 4, 5}, 1), (std::vector<TokenId>{7}));
}

TEST(PromptLookup, GoesOnWithAPeriod) {
  PromptLookup lookup;
  EXPECT_EQ(guess(lookup, {1, 2, 3, 1, 2, 3, 1, 2}, 4), (std::vector<TokenId>{3, 1, 2, 3}));
}

TEST(PromptLookup, GuessesNothingWithoutAMatch) {
  PromptLookup lookup;
  EXPECT_TRUE(guess(lookup, {}, 4).empty());
  EXPECT_TRUE(guess(lookup, {1}, 4).empty());
  EXPECT_TRUE(guess(lookup, {1, 2, 3, 4, 5}, 4).empty());
  EXPECT_TRUE(guess(lookup, {1, 5, 2, 6, 3, 5}, 4).empty());  // one token alone foretells nothing
  EXPECT_TRUE(guess(lookup, {1, 2, 3, 1, 2}, 0).empty());
}

TEST(PromptLookup, GuessesMoreWhenTheyComeTrueAndFewerWhenTheyCost) {
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2};
  PromptLookup lookup;
  const size_t at_first = guess(lookup, tokens, 8, 0.06).size();
  EXPECT_GT(at_first, 0u);
  EXPECT_LT(at_first, 8u);
  EXPECT_LT(guess(lookup, tokens, 8, 0.3).size(), at_first);
  EXPECT_TRUE(guess(lookup, tokens, 8, 1.0).empty());  // a guess costs a whole step
  for (int i = 0; i < 20; ++i) lookup.judged(4, 4);
  EXPECT_EQ(guess(lookup, tokens, 8, 0.06).size(), 8u);
}

TEST(PromptLookup, StopsWhereGuessesFailAndTriesAgainNowAndThen) {
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 5, 1, 2};
  PromptLookup lookup;
  for (int i = 0; i < 60; ++i) lookup.judged(2, 0);
  int tries = 0;
  for (int i = 0; i < 320; ++i) {
    if (guess(lookup, tokens, 8, 0.06).empty()) continue;
    ++tries;
    lookup.judged(2, 0);
  }
  EXPECT_EQ(tries, 10);
}

}  // namespace
}  // namespace quipu
