// What choosing a token costs, for each kind of request, from the logits of a vocabulary of 151,936
// (Qwen3). Each sequence of a step pays it, after the step's products.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/random.h"
#include "sample/sampler.h"

namespace quipu {
namespace {

std::vector<float> random_logits() {
  Random random(1);
  std::vector<float> logits(151936);
  for (float& logit : logits) logit = 3 * random.next_normal();
  return logits;
}

void sample(benchmark::State& state, const SamplingParams& params) {
  const std::vector<float> logits = random_logits();
  Sampler sampler(params, {});
  int64_t position = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sampler.sample(logits, position++));
}

const int registered = [] {
  const auto add = [](const char* name, const SamplingParams& params) {
    benchmark::RegisterBenchmark(name, sample, params)->Unit(benchmark::kMicrosecond);
  };
  add("greedy", {.temperature = 0});
  add("temperature", {.temperature = 1});  // OpenAI's defaults
  add("top_p", {.temperature = 1, .top_p = 0.95f});
  add("top_k+top_p", {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f});  // Qwen3's
  add("top_k+top_p+min_p",
      {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f});  // llama.cpp's
  add("min_p", {.temperature = 1, .min_p = 0.05f});
  add("repetition_penalty", {.temperature = 0, .repetition_penalty = 1.1f});
  return 0;
}();

}  // namespace
}  // namespace quipu

BENCHMARK_MAIN();
