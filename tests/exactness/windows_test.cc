// Windows and the cache, bit for bit: sequences that go back, split, lose what their windows need
// and compute it again give the logits of a sequence that was computed once, from its beginning.
#include <gtest/gtest.h>

#include "bare_engine.h"

namespace quipu::exactness {
namespace {

const char* const kShapes[] = {"tiny-windows", "tiny-mixed"};

struct Case {
  std::string shape;
  KvFormat format;
};

class Windows : public testing::TestWithParam<Case> {
 protected:
  Windows()
      : model_(open_tiny_model(GetParam().shape, DType::kQ8_0, detect_cpu_features().usable.back(),
                               2)) {}

  // Blocks of each group (the first is the windowed one in a model that has no other).
  std::vector<int64_t> blocks(int64_t full, int64_t windowed) const {
    return GetParam().shape == "tiny-mixed" ? std::vector{full, windowed} : std::vector{windowed};
  }

  std::vector<float> computed_once(const std::vector<TokenId>& tokens) {
    BareEngine bench(*model_, {GetParam().format, blocks(64, 64)});
    const auto sequence = bench.start(tokens);
    std::vector<float> logits = bench.finish(*sequence, 512);
    bench.release(*sequence);
    return logits;
  }

  std::unique_ptr<TinyModel> model_;
};

TEST_P(Windows, GoingBackToAnyPointAndOn) {
  // With room for all that windows leave behind, and with so little that most of it is gone.
  for (const int64_t windowed : {64, 9}) {
    BareEngine bench(*model_, {GetParam().format, blocks(64, windowed)});
    const auto sequence = bench.start(random_tokens(1, 150));
    bench.finish(*sequence, 32);
    uint64_t seed = 100;
    for (const int64_t point : {140, 128, 97, 96, 75, 33, 1, 0}) {
      bench.regrow(*sequence, point, random_tokens(++seed, 30));
      EXPECT_EQ(bench.finish(*sequence, 7), computed_once(sequence->tokens))
          << "back to " << point << " with " << windowed << " blocks";
    }
    bench.release(*sequence);
  }
}

TEST_P(Windows, ForksGoTheirOwnWays) {
  BareEngine bench(*model_, {GetParam().format, blocks(64, 16)});
  const auto trunk = bench.start(random_tokens(1, 100));
  bench.finish(*trunk, 32);
  const auto fork = [&](uint64_t seed) {
    std::vector<TokenId> tokens = trunk->tokens;
    const std::vector<TokenId> more = random_tokens(seed, 30);
    tokens.insert(tokens.end(), more.begin(), more.end());
    return bench.fork(*trunk, std::move(tokens));
  };
  const auto left = fork(7);
  const auto right = fork(8);
  const std::vector<float> of_left = bench.finish(*left, 5);
  EXPECT_EQ(bench.finish(*right, 64), computed_once(right->tokens));
  EXPECT_EQ(of_left, computed_once(left->tokens));
  bench.regrow(*trunk, 90, random_tokens(9, 30));
  EXPECT_EQ(bench.finish(*trunk, 64), computed_once(trunk->tokens));
  for (Sequence* sequence : {trunk.get(), left.get(), right.get()}) bench.release(*sequence);
}

// What a window needs was evicted while the rest stayed: the prompt is computed again from where
// everything is whole.
TEST_P(Windows, EvictedWindowsAreComputedAgain) {
  BareEngine bench(*model_, {GetParam().format, blocks(64, 8)});
  const std::vector<TokenId> prompt = random_tokens(1, 120);
  const std::vector<float> expected = computed_once(prompt);
  for (int round = 0; round < 3; ++round) {
    const auto again = bench.start(prompt);
    EXPECT_EQ(bench.finish(*again, 32), expected) << "round " << round;
    bench.release(*again);
    const auto other = bench.start(random_tokens(static_cast<uint64_t>(50 + round), 120));
    bench.finish(*other, 32);
    bench.release(*other);
  }
  EXPECT_GT(bench.cache().counters().window_blocks_evicted, 0);
  EXPECT_GT(bench.cache().counters().window_blocks_left, 0);
}

// The next turn of a conversation needs the end of the window only, and finds it.
TEST_P(Windows, TheNextTurnGoesOnFromTheWindow) {
  BareEngine bench(*model_, {GetParam().format, blocks(64, 12)});
  std::vector<TokenId> tokens = random_tokens(1, 110);
  for (int turn = 0; turn < 4; ++turn) {
    const auto sequence = bench.start(tokens);
    if (turn > 0) {
      EXPECT_EQ(sequence->num_computed_tokens(), sequence->num_tokens() - 20);
    }
    EXPECT_EQ(bench.finish(*sequence, 32), computed_once(tokens)) << "turn " << turn;
    bench.release(*sequence);
    const std::vector<TokenId> more = random_tokens(static_cast<uint64_t>(60 + turn), 20);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* shape : kShapes) {
    for (const KvFormat format : kKvFormats) all.push_back({shape, format});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Tiny, Windows, testing::ValuesIn(cases()), [](const auto& test) {
  return fmt::format("{}_{}", test.param.shape.substr(5), kv_format_name(test.param.format));
});

}  // namespace
}  // namespace quipu::exactness
