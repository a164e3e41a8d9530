#include "limits.h"

#include <cstdlib>

namespace quipu::bench {

namespace {

int wanted_threads() {
  const char* text = std::getenv("QUIPU_THREADS");
  const int threads = text == nullptr ? 0 : std::atoi(text);
  return threads > 0 ? threads : detect_cpu_features().logical_cpus;
}

}  // namespace

const Limits& limits() {
  static const Limits measured = [] {
    Limits l;
    l.isa = choose_isa(std::nullopt).value();
    l.threads = wanted_threads();
    l.read_bytes = measure_read_bandwidth(l.threads, 1.0);
    l.peaks = measure_cpu_peaks(l.isa, l.threads, 0.3);
    return l;
  }();
  return measured;
}

Backend& backend() {
  static const std::unique_ptr<Backend> instance = [] {
    CpuBackendOptions options;
    options.threads = wanted_threads();
    return make_cpu_backend(options).value();
  }();
  return *instance;
}

std::vector<float> random_floats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.next_double()) - 0.5f;
  return values;
}

void report(benchmark::State& state, const char* unit, double work, double limit) {
  state.counters[unit] = benchmark::Counter(work, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["share"] =
      benchmark::Counter(work / limit, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace quipu::bench
