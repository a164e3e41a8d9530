#include <gtest/gtest.h>

#include <algorithm>
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

// What the definition says, step by step: everything is sorted, sums are taken one by one.
TokenId sample_slowly(const SamplingParams& params, const std::vector<float>& logits,
                      int64_t position) {
  struct Token {
    TokenId id;
    float logit;
    uint64_t weight;
  };
  float largest = -INFINITY;
  for (const float logit : logits) largest = logit > largest ? logit : largest;
  std::vector<Token> tokens;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!(logits[id] > -INFINITY)) continue;
    tokens.push_back({static_cast<TokenId>(id), logits[id],
                      TokenWeights::weight(logits[id], largest, params.temperature)});
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const Token& a, const Token& b) { return a.logit > b.logit; });
  const auto total = [&] {
    uint64_t sum = 0;
    for (const Token& token : tokens) sum += token.weight;
    return sum;
  };
  if (params.top_k > 0) tokens.resize(std::min(tokens.size(), static_cast<size_t>(params.top_k)));
  const double wanted = static_cast<double>(params.top_p) * static_cast<double>(total());
  uint64_t sum = 0;
  size_t keep = 0;
  while (keep < tokens.size() && (keep == 0 || static_cast<double>(sum) < wanted)) {
    sum += tokens[keep++].weight;
  }
  if (params.top_p < 1) tokens.resize(keep);
  const double least = static_cast<double>(params.min_p) * static_cast<double>(TokenWeights::kOne);
  std::erase_if(tokens,
                [&](const Token& token) { return token.weight < static_cast<uint64_t>(least); });
  std::sort(tokens.begin(), tokens.end(),
            [](const Token& a, const Token& b) { return a.id < b.id; });
  const double at = uniform_at(params.seed, static_cast<uint64_t>(position), 0);
  auto left = static_cast<uint64_t>(at * static_cast<double>(total()));
  for (const Token& token : tokens) {
    if (left < token.weight) return token.id;
    left -= token.weight;
  }
  return tokens.back().id;
}

TEST(Sampler, CutsAndDrawsAreThoseOfTheDefinition) {
  Random random(3);
  for (int round = 0; round < 3000; ++round) {
    std::vector<float> logits(1 + random.next_below(round % 10 == 0 ? 5000 : 300));
    const float spread = round % 3 == 0 ? 0.01f : 4.0f;
    for (float& logit : logits) {
      logit = spread * random.next_normal();
      if (round % 4 == 0) logit = std::round(2 * logit);  // many equals
      if (random.next_below(20) == 0) logit = random.next_below(2) == 0 ? -INFINITY : NAN;
    }
    logits[random.next_below(logits.size())] = 1;
    SamplingParams params{.temperature = 0.1f + 2 * static_cast<float>(random.next_double()),
                          .seed = static_cast<uint64_t>(round)};
    if (round % 2 == 0) params.top_k = static_cast<int>(random.next_below(2 * logits.size()));
    if (round % 5 != 0) params.top_p = static_cast<float>(random.next_double());
    if (round % 7 == 0) params.min_p = static_cast<float>(random.next_double());
    Sampler sampler(params, {});
    for (int position = 0; position < 3; ++position) {
      ASSERT_EQ(sampler.sample(logits, position), sample_slowly(params, logits, position)) << round;
    }
  }
}

TEST(Sampler, OneThatIsInfiniteOrNothingAtAllIsAnswered) {
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1}, SamplingParams{.temperature = 1, .top_k = 1},
        SamplingParams{.temperature = 1, .top_p = 0.5f},
        SamplingParams{.temperature = 1, .min_p = 0.5f}}) {
    EXPECT_EQ(Sampler(params, {}).sample(std::vector<float>{1, INFINITY, 2}, 0), 1);
    EXPECT_EQ(Sampler(params, {}).sample(std::vector<float>{NAN, NAN}, 0), 0);
    EXPECT_EQ(Sampler(params, {}).sample(std::vector<float>{-INFINITY, -INFINITY}, 0), 0);
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
