// Linear layers. Decode (1 to 16 tokens) streams 192 MB or more of weights per round, so that no
// cache helps; prefill multiplies one layer's matrix by 512 tokens.
#include <map>

#include "limits.h"
#include "tensor/quantize.h"

namespace quipu::bench {
namespace {

// A random matrix of one row repeated: values do not matter for speed, making them does for time.
std::vector<std::byte> stored_matrix(DType dtype, int64_t rows, int64_t columns) {
  const size_t bytes = row_bytes(dtype, static_cast<size_t>(columns));
  std::vector<std::byte> data(bytes * static_cast<size_t>(rows));
  const auto values = random_floats(static_cast<size_t>(columns), 1);
  quantize_row(dtype, values, data.data());
  for (int64_t r = 1; r < rows; ++r) {
    std::copy_n(data.begin(), bytes, data.begin() + static_cast<ptrdiff_t>(bytes) * r);
  }
  return data;
}

double peak_for(DType dtype) {
  const CpuPeaks& peaks = limits().peaks;
  if (dtype == DType::kF32 || dtype == DType::kF16) return peaks.f32_flops;
  return dtype == DType::kBF16 ? peaks.bf16_flops : peaks.int8_ops;
}

enum class Bound { kMemory, kCache, kProducts };

void run_layers(benchmark::State& state, DType dtype, int64_t rows, int64_t columns, size_t layers,
                size_t tokens, Bound bound) {
  const auto stored = stored_matrix(dtype, rows, columns);
  std::vector<std::unique_ptr<LinearWeight>> weights;
  for (size_t i = 0; i < layers; ++i) {
    weights.push_back(backend().load_linear({dtype, {rows, columns}, stored}).value());
  }
  const auto x = random_floats(tokens * static_cast<size_t>(columns), 2);
  std::vector<float> y(tokens * static_cast<size_t>(rows));
  double bytes = 0;
  for (const auto& weight : weights) bytes += static_cast<double>(weight->bytes());
  const auto round = [&] {
    for (const auto& weight : weights) {
      const LinearOutput output{weight.get(), nullptr, y.data(), static_cast<size_t>(rows),
                                LinearStore::kSet};
      backend().linear({x.data(), static_cast<size_t>(columns), tokens, {&output, 1}});
    }
    benchmark::ClobberMemory();
  };
  const double operations = 2.0 * static_cast<double>(rows) * static_cast<double>(columns) *
                            static_cast<double>(tokens) * static_cast<double>(layers);
  switch (bound) {
    case Bound::kMemory: run_beside_reads(state, bytes, round); break;
    case Bound::kCache:
      for (auto _ : state) round();
      state.counters["bytes/s"] =
          benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
      break;
    case Bound::kProducts:
      for (auto _ : state) round();
      report(state, "ops/s", operations, peak_for(dtype));
      break;
  }
}

void decode(benchmark::State& state, DType dtype) {
  const int64_t rows = 3072, columns = 1024;
  const size_t bytes = row_bytes(dtype, columns) * rows;
  run_layers(state, dtype, rows, columns, (192u << 20) / bytes + 1,
             static_cast<size_t>(state.range(0)), Bound::kMemory);
}

// One token and weights that stay in L2: what instructions cost where memory costs nothing.
void decode_cached(benchmark::State& state, DType dtype) {
  run_layers(state, dtype, 256, 1024, 1, 1, Bound::kCache);
}

void prefill(benchmark::State& state, DType dtype) {
  run_layers(state, dtype, state.range(1), state.range(2), 1, static_cast<size_t>(state.range(0)),
             Bound::kProducts);
}

void load(benchmark::State& state, DType dtype) {
  const auto stored = stored_matrix(dtype, 3072, 1024);
  for (auto _ : state) {
    benchmark::DoNotOptimize(backend().load_linear({dtype, {3072, 1024}, stored}));
  }
  state.counters["bytes/s"] = benchmark::Counter(static_cast<double>(stored.size()),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

const int registered = [] {
  for (const DTypeTraits& traits : all_dtypes()) {
    const DType dtype = traits.dtype;
    const std::string name(traits.name);
    benchmark::RegisterBenchmark(("decode/" + name).c_str(), decode, dtype)
        ->Arg(1)
        ->Arg(4)
        ->Arg(16)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("decode_cached/" + name).c_str(), decode_cached, dtype)
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(("prefill/" + name).c_str(), prefill, dtype)
        ->Args({512, 3072, 1024})
        ->Args({512, 1024, 3072})
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("load/" + name).c_str(), load, dtype)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  return 0;
}();

}  // namespace
}  // namespace quipu::bench
