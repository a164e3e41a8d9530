#include "limits.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace quipu::bench {

namespace {

int wanted_threads() {
  const char* text = std::getenv("QUIPU_THREADS");
  const int threads = text == nullptr ? 0 : std::atoi(text);
  return threads > 0 ? threads : detect_cpu_features().logical_cpus;
}

ReadMeter& reads() {
  static ReadMeter meter(wanted_threads());
  return meter;
}

}  // namespace

const Limits& limits() {
  static const Limits measured = [] {
    Limits l;
    l.isa = choose_isa(std::nullopt).value();
    l.threads = wanted_threads();
    l.read_bytes = reads().read(1.0);
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

void run_beside_reads(benchmark::State& state, double bytes, const std::function<void()>& round) {
  std::vector<double> shares;
  for (auto _ : state) {
    const double read = reads().read();
    const auto start = std::chrono::steady_clock::now();
    round();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    state.SetIterationTime(time.count());
    shares.push_back(bytes / time.count() / read);
  }
  std::nth_element(shares.begin(), shares.begin() + static_cast<ptrdiff_t>(shares.size() / 2),
                   shares.end());
  state.counters["bytes/s"] =
      benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["share"] = shares[shares.size() / 2];
}

}  // namespace quipu::bench
