// Guessed tokens (engine/prompt_lookup.h) change how many steps a text takes and no bit of it.
#include <gtest/gtest.h>

#include <algorithm>

#include "tiny_engine.h"

namespace quipu::exactness {
namespace {

// Greedy models with random weights soon repeat themselves; drawing ones hardly ever do.
std::vector<Request> requests(float temperature) {
  std::vector<Request> all;
  for (uint64_t i = 0; i < 3; ++i) {
    std::vector<TokenId> prompt = random_tokens(70 + i, 40);
    const std::vector<TokenId> again = prompt;  // something to find
    prompt.insert(prompt.end(), again.begin(), again.begin() + 20);
    Request request = make_request(std::move(prompt), 120);
    request.sampling.temperature = temperature;
    request.sampling.repetition_penalty = i == 1 ? 1.1f : 1.0f;  // what was kept counts
    all.push_back(std::move(request));
  }
  return all;
}

class Drafts : public testing::TestWithParam<std::string> {};

TEST_P(Drafts, ChangeNoBit) {
  const auto model = open_tiny_model(GetParam(), DType::kQ8_0, detect_cpu_features().usable.back(), 2);
  for (const KvFormat format : {KvFormat::kBF16, KvFormat::kInt4}) {
    int64_t accepted = 0, proposed = 0;
    for (const float temperature : {0.0f, 1.0f}) {
      EngineSettings settings{.kv_format = format, .chunk = 32};
      TinyEngine plain(*model, settings);
      const std::vector<Outcome> expected = run(*plain.engine, requests(temperature));
      settings.draft_tokens_max = 7;
      TinyEngine drafting(*model, settings);
      const std::vector<Outcome> actual = run(*drafting.engine, requests(temperature));
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(difference(actual[i], expected[i], 120), "")
            << kv_format_name(format) << ", temperature " << temperature << ", request " << i;
        EXPECT_FALSE(actual[i].shown_twice);
        EXPECT_EQ(actual[i].finishes, 1);
      }
      const SchedulerCounters& counters = drafting.engine->scheduler().counters();
      accepted += counters.drafts_accepted;
      proposed += counters.drafts_proposed;
      EXPECT_EQ(plain.engine->scheduler().counters().drafts_proposed, 0);
    }
    EXPECT_GT(accepted, 20);
    EXPECT_GT(proposed, accepted);  // some must fail, or nothing was undone
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Drafts,
                         testing::Values("tiny-llama", "tiny-mixed", "tiny-windows", "tiny-t5"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace quipu::exactness
