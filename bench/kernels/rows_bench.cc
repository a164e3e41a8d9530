// Row operations between the products, for one token and for 512.
#include "limits.h"

namespace quipu::bench {
namespace {

constexpr size_t kDim = 1024, kHidden = 3072, kVocabulary = 151936;

void norm(benchmark::State& state) {
  const auto tokens = static_cast<size_t>(state.range(0));
  const auto x = random_floats(tokens * kDim, 5), weight = random_floats(kDim, 6);
  std::vector<float> y(x.size());
  for (auto _ : state) {
    backend().norm({NormKind::kRms, x.data(), y.data(), weight.data(), nullptr, tokens, 1, kDim,
                    kDim, kDim, 1e-6f});
  }
}
BENCHMARK(norm)->Arg(1)->Arg(512)->UseRealTime()->Unit(benchmark::kMicrosecond);

void silu(benchmark::State& state) {
  const auto tokens = static_cast<size_t>(state.range(0));
  const auto gate = random_floats(tokens * kHidden, 7), up = random_floats(tokens * kHidden, 8);
  std::vector<float> out(gate.size());
  for (auto _ : state) {
    backend().activation({Activation::kSilu, gate.data(), up.data(), out.data(), tokens, kHidden,
                          kHidden, kHidden, kHidden});
  }
}
BENCHMARK(silu)->Arg(1)->Arg(512)->UseRealTime()->Unit(benchmark::kMicrosecond);

void rope(benchmark::State& state) {
  const auto tokens = static_cast<size_t>(state.range(0));
  auto x = random_floats(tokens * 16 * 128, 9);
  const auto cos_sin = random_floats(tokens * 128, 10);
  for (auto _ : state) {
    backend().rope(
        {x.data(), cos_sin.data(), tokens, 16, 128, 128, 16 * 128, RopePairing::kHalves});
  }
}
BENCHMARK(rope)->Arg(1)->Arg(512)->UseRealTime()->Unit(benchmark::kMicrosecond);

void arg_max(benchmark::State& state) {
  const auto x = random_floats(kVocabulary, 11);
  int32_t out = 0;
  for (auto _ : state) {
    backend().arg_max({x.data(), &out, 1, kVocabulary});
    benchmark::DoNotOptimize(out);
  }
}
BENCHMARK(arg_max)->UseRealTime()->Unit(benchmark::kMicrosecond);

// A product so small that waking the threads is what it costs.
void barrier(benchmark::State& state) {
  const std::vector<float> weights(128 * 128, 0.5f), x(128, 1.0f);
  const TensorView view{DType::kF32, {128, 128}, std::as_bytes(std::span(weights))};
  auto weight = backend().load_linear(view).value();
  std::vector<float> y(128);
  const LinearOutput output{weight.get(), nullptr, y.data(), 128, LinearStore::kSet};
  for (auto _ : state) backend().linear({x.data(), 128, 1, {&output, 1}});
}
BENCHMARK(barrier)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace quipu::bench
