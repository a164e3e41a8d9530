// Streaming: a model that was trained for 128 tokens goes on for thousands in constant memory, and
// the bits do not depend on how.
#include <gtest/gtest.h>

#include <cmath>

#include "tiny_engine.h"

namespace quipu::exactness {
namespace {

constexpr int64_t kTrained = 128;
constexpr StreamingConfig kStreaming = {.window = 60, .sinks = 4};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kLongOutput = 400;
#else
constexpr int64_t kLongOutput = 3000;
#endif

class Streaming : public testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<TinyModel> open(int threads) {
    return open_tiny_model(GetParam(), DType::kQ8_0, detect_cpu_features().usable.back(), threads,
                           kTrained);
  }
  static EngineSettings settings(int chunk, int blocks = 64) {
    return {.kv_format = KvFormat::kBF16,
            .chunk = chunk,
            .block_tokens = 16,
            .blocks = blocks,
            .streaming = kStreaming};
  }
};

TEST_P(Streaming, GoesOnPastTheContextInConstantMemory) {
  const auto model = open(2);
  TinyEngine tiny(*model, settings(32, 16));
  const int64_t outputs = GetParam() == "tiny-llama" ? kLongOutput : kLongOutput / 5;
  Request request = make_request(random_tokens(1, 200), outputs);
  double largest = 0;
  int64_t shown = 0;
  request.on_logits = [&](int64_t, std::span<const float> logits) {
    ++shown;
    for (const float logit : logits) {
      ASSERT_TRUE(std::isfinite(logit));
      largest = std::max(largest, std::abs(static_cast<double>(logit)));
    }
  };
  ASSERT_TRUE(tiny.engine->submit(std::move(request)).ok());
  const KvCache& cache = tiny.engine->scheduler().cache();
  int held_max = 0;
  while (tiny.engine->has_work()) {
    tiny.engine->step();
    int held = 0;
    for (int group = 0; group < cache.num_groups(); ++group)
      held += cache.block_states(group).open + cache.block_states(group).closed;
    held_max = std::max(held_max, held);
  }
  EXPECT_EQ(shown, outputs);
  // Random weights make logits with a deviation of 2; a broken position makes no difference to
  // that, a broken sum does.
  EXPECT_LT(largest, 20);
  EXPECT_GT(largest, 1);
  // 1 block of sinks and 60 - 1 + 32 tokens, which touch 7; a group of smaller windows beside it
  // holds no more.
  EXPECT_LE(held_max, 8 * cache.num_groups());
}

TEST_P(Streaming, ChunksThreadsAndCompanyDoNotMatter) {
  const auto model = open(1);
  const auto threaded = open(3);
  const auto request = [](uint64_t seed) { return make_request(random_tokens(seed, 300), 40); };
  const Outcome expected = run_alone(*model, settings(512), request(1));
  EXPECT_EQ(expected.tokens.size(), 40u);
  for (const int chunk : {1, 7, 64})
    EXPECT_EQ(difference(run_alone(*threaded, settings(chunk), request(1)), expected, 40), "")
        << "chunk " << chunk;
  std::vector<Request> crowd;
  for (const uint64_t seed : {2, 1, 3, 4}) crowd.push_back(request(seed));
  TinyEngine shared(*threaded, settings(32));
  EXPECT_EQ(difference(run(*shared.engine, std::move(crowd), 1)[1], expected, 40), "") << "company";
}

TEST_P(Streaming, PreemptionAndTheNextTurnDoNotMatter) {
  const auto model = open(2);
  const auto request = [](uint64_t seed) { return make_request(random_tokens(seed, 90), 120); };
  std::vector<Request> crowd;
  for (const uint64_t seed : {1, 2, 3, 4}) crowd.push_back(request(seed));
  TinyEngine tight(*model, settings(16, 15));
  const std::vector<Outcome> together = run(*tight.engine, std::move(crowd));
  int preemptions = 0;
  for (const uint64_t seed : {1, 2, 3, 4}) {
    preemptions += together[seed - 1].stats.preemptions;
    EXPECT_EQ(difference(together[seed - 1], run_alone(*model, settings(512), request(seed)), 120),
              "")
        << "request " << seed;
  }
  EXPECT_GT(preemptions, 0);

  // A conversation past the context: the second turn begins with the first and its answer.
  TinyEngine warm(*model, settings(64));
  std::vector<Request> first;
  first.push_back(request(1));
  const Outcome answer = std::move(run(*warm.engine, std::move(first)).front());
  std::vector<TokenId> turn = random_tokens(1, 90);
  turn.insert(turn.end(), answer.tokens.begin(), answer.tokens.end());
  const std::vector<TokenId> question = random_tokens(9, 20);
  turn.insert(turn.end(), question.begin(), question.end());
  std::vector<Request> second;
  second.push_back(make_request(turn, 20));
  const Outcome next = std::move(run(*warm.engine, std::move(second)).front());
  EXPECT_GE(next.stats.cached_tokens, 90 + 119);
  EXPECT_EQ(difference(next, run_alone(*model, settings(7), make_request(turn, 20)), 20), "");
}

TEST_P(Streaming, NoCacheGivesTheSameBits) {
  const auto model = open(2);
  EngineSettings off = settings(32);
  off.keep_kv = false;
  const auto request = [] { return make_request(random_tokens(1, 150), 4); };
  EXPECT_EQ(
      difference(run_alone(*model, off, request()), run_alone(*model, settings(512), request()), 4),
      "");
}

INSTANTIATE_TEST_SUITE_P(Tiny, Streaming, testing::Values("tiny-llama", "tiny-qwen3", "tiny-mixed"),
                         [](const auto& test) {
                           return test.param == "tiny-llama"   ? "llama"
                                  : test.param == "tiny-qwen3" ? "qwen3"
                                                               : "mixed";
                         });

// Before the window has slid, streaming sees what plain attention sees; the sums are cut otherwise,
// so the logits agree to rounding. After that they must differ.
TEST(StreamingRules, IsPlainAttentionUntilTheWindowSlides) {
  const auto model =
      open_tiny_model("tiny-llama", DType::kF32, detect_cpu_features().usable.back(), 1, kTrained);
  const auto largest_difference = [&](size_t tokens) {
    EngineSettings streamed = {.streaming = kStreaming};
    const auto request = [&] { return make_request(random_tokens(1, tokens), 1); };
    const Outcome a = run_alone(*model, {}, request()), b = run_alone(*model, streamed, request());
    double largest = 0;
    for (const auto& [position, logits] : a.logits) {
      for (size_t i = 0; i < logits.size(); ++i)
        largest = std::max(largest, std::abs(static_cast<double>(logits[i]) -
                                             static_cast<double>(b.logits.at(position)[i])));
    }
    return largest;
  };
  EXPECT_LT(largest_difference(64), 1e-4);  // the last token that sees everything
  EXPECT_GT(largest_difference(100), 1e-2);
}

TEST(StreamingRules, IsRefusedWhereItMakesNoSense) {
  const auto refusal = [](const std::string& shape, const StreamingConfig& streaming) {
    const auto model = open_tiny_model(shape, DType::kQ8_0, Isa::kScalar, 1, kTrained);
    FakeClock clock;
    const auto engine = Engine::create(*model->model, *model->backend,
                                       {.kv_bytes = 1 << 20, .streaming = streaming}, clock);
    return engine.ok() ? "" : engine.status().message();
  };
  EXPECT_NE(refusal("tiny-gpt2", kStreaming).find("learned"), std::string::npos);
  EXPECT_NE(refusal("tiny-llama", {.window = 125, .sinks = 4}).find("129"), std::string::npos);
  EXPECT_NE(refusal("tiny-llama", {.window = 0, .sinks = 4}), "");
  EXPECT_NE(refusal("tiny-llama", {.window = 10, .sinks = 513}), "");
  EXPECT_EQ(refusal("tiny-llama", {.window = 124, .sinks = 4}), "");
}

}  // namespace
}  // namespace quipu::exactness
