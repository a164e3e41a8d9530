// What guessing costs and saves, played through for texts in which looks find something or nothing.
#include "engine/draft_gain.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

namespace quipu {
namespace {

struct Played {
  double time = 0;  // UNITS: steps without guesses
  int tokens = 0, looks = 0;
};

// Writes `tokens` tokens. `found`: how many right guesses there are behind so many tokens; what is
// asked for beyond those is wrong if `adds_wrong_ones`.
Played play(DraftGain& gain, int tokens, const DraftCosts& costs,
            const std::function<int(int tokens)>& found, bool adds_wrong_ones = false) {
  Played played;
  while (played.tokens < tokens) {
    const int asked = gain.count(8, costs);
    const int right = std::min(asked, found(played.tokens));
    const int proposed = adds_wrong_ones ? asked : right;
    played.looks += asked > 0 ? 1 : 0;
    played.time += 1 + (asked > 0 ? costs.look : 0) + proposed * costs.token;
    played.tokens += 1 + right;
    if (asked > 0 && proposed == 0) gain.found_none();
    if (proposed > 0) gain.judged(proposed, right);
  }
  return played;
}

Played play(int tokens, const DraftCosts& costs, const std::function<int(int)>& found) {
  DraftGain gain(0.9);
  return play(gain, tokens, costs, found);
}

TEST(DraftGain, LooksThatCostMoreThanTheySaveAreRare) {
  for (const double look : {0.1, 0.3, 1.0, 3.0}) {
    const Played vain = play(400, {look, 0.05}, [](int) { return 0; });
    EXPECT_LT(vain.time, 400 * 1.04) << look;
    EXPECT_GT(vain.looks, 0) << look;
  }
  // A guess in every look, and each look costs more than the step that it saves.
  const Played poor = play(400, {1.5, 0.05}, [](int) { return 1; });
  EXPECT_LT(poor.time, 400 * 1.04);
}

TEST(DraftGain, LooksThatPayAreMade) {
  // Three of ten tokens are known from those before them.
  const auto some = [](int tokens) { return tokens % 10 == 4 ? 3 : 0; };
  EXPECT_LT(play(400, {0.01, 0.05}, some).time, 400 * 0.8);
  EXPECT_LT(play(400, {0.05, 0.05}, some).time, 400 * 0.85);
  EXPECT_LT(play(400, {0, 0.05}, [](int) { return 8; }).time, 400 * 0.25);
  // What costs more than a step, and saves several: a try finds out.
  EXPECT_LT(play(1000, {1.5, 0.05}, [](int) { return 8; }).time, 1000 * 0.5);
}

TEST(DraftGain, FollowsATextThatChanges) {
  const auto later = [](int tokens) { return tokens < 500 ? 0 : 5; };
  const auto at_first = [](int tokens) { return tokens < 500 ? 5 : 0; };
  for (const double look : {0.02, 0.2}) {
    // With 500 tokens at six for 1.25 + look.
    const double least = 500 + 500 / 6.0 * (1.25 + look);
    EXPECT_LT(play(1000, {look, 0.05}, later).time, least * 1.06) << look;
    EXPECT_LT(play(1000, {look, 0.05}, at_first).time, least * 1.06) << look;
  }
}

TEST(DraftGain, WrongGuessesCostWhatTheyTake) {
  DraftGain gain(0.5);
  const Played wrong = play(gain, 1000, {0, 0.06}, [](int) { return 0; }, /*adds_wrong_ones=*/true);
  EXPECT_LT(wrong.time, 1000 * 1.01);
  EXPECT_GT(wrong.looks, 20);
  // And are made again once they come true.
  const Played right = play(gain, 1000, {0, 0.06}, [](int) { return 8; }, /*adds_wrong_ones=*/true);
  EXPECT_LT(right.time, 1000 * 0.4);
}

TEST(DraftGain, NothingIsAskedForWhereNothingMayCome) {
  DraftGain gain(0.9);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(gain.count(0, {0, 0.01}), 0);
  EXPECT_EQ(gain.count(3, {0, 0.01}), 3);
}

}  // namespace
}  // namespace quipu
