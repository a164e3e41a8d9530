#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/random.h"
#include "sample/sampler.h"

namespace quipu {
namespace {

std::map<TokenId, int> draw_many(const SamplingParams& params, const std::vector<float>& logits,
                                 int draws) {
  Sampler sampler(params, {});
  std::map<TokenId, int> counts;
  for (int position = 0; position < draws; ++position) ++counts[sampler.sample(logits, position)];
  return counts;
}

TEST(Sampler, GreedyTakesTheBestAndTheLowerIdOfEquals) {
  Sampler sampler({.temperature = 0}, {});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2, 3}, 0), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{NAN, -1, -2}, 0), 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};
  const auto counts = draw_many({.temperature = 1, .seed = 5}, logits, 40000);
  EXPECT_NEAR(counts.at(0) / 40000.0, 1 / 8.0, 0.01);
  EXPECT_NEAR(counts.at(1) / 40000.0, 2 / 8.0, 0.01);
  EXPECT_NEAR(counts.at(2) / 40000.0, 5 / 8.0, 0.01);
}

TEST(Sampler, CutsKeepExactlyTheirTokens) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(2.0f), 0, std::log(4.0f), 0};
  const auto kept = [&](const SamplingParams& params) {
    std::set<TokenId> ids;
    for (const auto& [id, count] : draw_many(params, logits, 2000)) ids.insert(id);
    return ids;
  };
  EXPECT_EQ(kept({.temperature = 1, .top_k = 1}), (std::set<TokenId>{2}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 3}),
            (std::set<TokenId>{0, 1, 2}));  // of equals, the lower id
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.5}), (std::set<TokenId>{2}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.51}), (std::set<TokenId>{0, 2}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.4}), (std::set<TokenId>{0, 2}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0}), (std::set<TokenId>{2}));
}

// The early cut before sorting must never change the outcome.
TEST(Sampler, TheEarlyCutIsExact) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> logits(50 + random.next_below(300));
    for (float& logit : logits) logit = 4 * random.next_normal();
    const float top_p = static_cast<float>(random.next_double());
    const SamplingParams fast = {.temperature = 0.7f, .top_p = top_p, .seed = 9};
    SamplingParams slow = fast;
    slow.top_k = static_cast<int>(logits.size());  // sorts everything
    EXPECT_EQ(Sampler(fast, {}).sample(logits, round), Sampler(slow, {}).sample(logits, round));
  }
}

TEST(Sampler, PenaltiesAndBias) {
  const std::vector<float> logits = {2, 1.9f, -1};
  Sampler repetition({.temperature = 0, .repetition_penalty = 1.5f}, std::vector<TokenId>{0});
  EXPECT_EQ(repetition.sample(logits, 0), 1);  // 2 / 1.5 < 1.9
  Sampler frequency({.temperature = 0, .frequency_penalty = 0.06f}, std::vector<TokenId>{0});
  EXPECT_EQ(frequency.sample(logits, 0), 0);  // the prompt does not count
  frequency.accept(0);
  EXPECT_EQ(frequency.sample(logits, 1), 0);
  frequency.accept(0);
  EXPECT_EQ(frequency.sample(logits, 2), 1);  // 2 - 2 * 0.06 < 1.9
  Sampler presence({.temperature = 0, .presence_penalty = 0.2f}, {});
  presence.accept(0);
  EXPECT_EQ(presence.sample(logits, 1), 1);
  Sampler bias({.temperature = 0, .logit_bias = {{2, 10}, {0, -100}, {77, 5}}}, {});
  EXPECT_EQ(bias.sample(logits, 0), 2);
}

TEST(Sampler, TheDrawDependsOnSeedAndPositionOnly) {
  std::vector<float> logits(64);
  Random random(1);
  for (float& logit : logits) logit = random.next_normal();
  Sampler a({.temperature = 1, .seed = 42}, {}), b({.temperature = 1, .seed = 42}, {});
  b.sample(logits, 3);  // other calls before do not matter
  for (int position = 0; position < 20; ++position)
    EXPECT_EQ(a.sample(logits, position), b.sample(logits, position));
}

TEST(SamplingParams, RefusesValuesOutOfRange) {
  EXPECT_TRUE(SamplingParams{}.validate().ok());
  for (const SamplingParams& bad :
       {SamplingParams{.temperature = -1}, SamplingParams{.temperature = NAN},
        SamplingParams{.top_k = -1}, SamplingParams{.top_p = 1.5f}, SamplingParams{.min_p = -0.1f},
        SamplingParams{.repetition_penalty = 0}}) {
    EXPECT_EQ(bad.validate().code(), ErrorCode::kInvalidArgument);
  }
}

// Allows a fixed set of ids below 64.
class Allows : public TokenConstraint {
 public:
  explicit Allows(std::vector<uint32_t> words) : words_(std::move(words)) {}
  Result<std::span<const uint32_t>> allowed() override { return std::span<const uint32_t>(words_); }
  Status accept(TokenId) override { return Status::ok_status(); }
  bool is_complete() const override { return false; }

 private:
  std::vector<uint32_t> words_;
};

TEST(Sampler, AConstraintComesBeforeEverythingElse) {
  const std::vector<float> logits = {9, 1, 2, -INFINITY, NAN};
  const auto choose = [&](SamplingParams params, uint32_t allowed) {
    Sampler sampler(params, {}, std::make_shared<Allows>(std::vector<uint32_t>{allowed}));
    return sampler.sample(logits, 7);
  };
  EXPECT_EQ(choose({.temperature = 0}, 0b00110), 2);
  EXPECT_EQ(choose({.temperature = 1, .top_k = 1}, 0b00110), 2);
  EXPECT_EQ(choose({.temperature = 0, .logit_bias = {{0, 1e9f}, {1, 5.0f}}}, 0b00110), 1);
  // What has no weight at all is chosen when nothing else is allowed.
  EXPECT_EQ(choose({.temperature = 0}, 0b01000), 3);
  EXPECT_EQ(choose({.temperature = 1, .top_p = 0.5f, .min_p = 0.5f}, 0b10000), 4);
  EXPECT_EQ(choose({.temperature = 1, .repetition_penalty = 2, .presence_penalty = 3}, 0b10000), 4);
}

TEST(Sampler, SaysSoWhenNothingThatItHasIsAllowed) {
  Sampler sampler({.temperature = 1}, {}, std::make_shared<Allows>(std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 2, 3}, 0), kNoToken);
  EXPECT_EQ(sampler.failure().code(), ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace quipu
