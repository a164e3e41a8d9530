// What this machine can do at best: bandwidth of reading, and rates of the multipliers.
#include <algorithm>
#include <chrono>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/thread_pool.h"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/units.h"

namespace quipu {

namespace cpu {
KernelTable make_kernel_table(Isa isa, const CpuFeatures& features);
}

namespace {

// Far larger than any cache.
constexpr size_t kReadBytes = 512 * kMiB;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Repeats `round` (which returns its work) until the time is over and reports the best rate: what
// the machine can do when nobody disturbs.
template <typename Round>
double best_rate(double seconds, const Round& round) {
  double best = 0;
  const double end = now_seconds() + seconds;
  do {
    const double start = now_seconds();
    const double work = round();
    best = std::max(best, work / (now_seconds() - start));
  } while (now_seconds() < end);
  return best;
}

}  // namespace

struct ReadMeter::State {
  cpu::KernelTable kernels;
  cpu::ThreadPool pool;
  AlignedBuffer buffer;
  std::vector<uint64_t> sinks;

  State(const CpuFeatures& features, int threads)
      : kernels(cpu::make_kernel_table(features.usable.back(), features)), pool(threads, true) {}

  // Each thread reads what it wrote first.
  template <typename Visit>
  void each_part(const Visit& visit) {
    const size_t count = kReadBytes / sizeof(uint64_t);
    pool.run([&](int thread, int n) {
      const auto first = count * static_cast<size_t>(thread) / static_cast<size_t>(n);
      const auto last = count * static_cast<size_t>(thread + 1) / static_cast<size_t>(n);
      visit(thread, buffer.as<uint64_t>() + first, last - first);
    });
  }
};

ReadMeter::ReadMeter(int threads)
    : state_(std::make_unique<State>(detect_cpu_features(), threads)) {
  auto buffer = AlignedBuffer::allocate(kReadBytes);
  QUIPU_CHECK(buffer.ok(), "{}", buffer.status().message());
  state_->buffer = std::move(*buffer);
  state_->sinks.resize(static_cast<size_t>(threads) * 8);
  state_->each_part([&](int thread, uint64_t* words, size_t length) {
    std::fill_n(words, length, static_cast<uint64_t>(thread));
  });
}

ReadMeter::~ReadMeter() = default;

double ReadMeter::read(double seconds) {
  return best_rate(seconds, [&] {
    state_->each_part([&](int thread, const uint64_t* words, size_t length) {
      state_->sinks[static_cast<size_t>(thread) * 8] += state_->kernels.read_words(words, length);
    });
    return static_cast<double>(kReadBytes);
  });
}

CpuPeaks measure_cpu_peaks(Isa isa, int threads, double seconds) {
  const cpu::KernelTable kernels = cpu::make_kernel_table(isa, detect_cpu_features());
  cpu::ThreadPool pool(threads, true);
  constexpr size_t kIterations = 20000;
  std::vector<double> work(static_cast<size_t>(threads) * 8);
  const auto rate = [&](const auto& kernel) {
    return best_rate(seconds, [&] {
      pool.run(
          [&](int thread, int) { work[static_cast<size_t>(thread) * 8] = kernel(kIterations); });
      double total = 0;
      for (size_t i = 0; i < work.size(); i += 8) total += work[i];
      return total;
    });
  };
  CpuPeaks peaks;
  peaks.int8_ops = rate([&](size_t n) {
    int32_t sink = 0;
    return kernels.peak_int8(n, &sink);
  });
  peaks.bf16_flops = rate([&](size_t n) {
    float sink = 0;
    return kernels.peak_bf16(n, &sink);
  });
  peaks.f32_flops = rate([&](size_t n) {
    float sink = 0;
    return kernels.peak_f32(n, &sink);
  });
  return peaks;
}

}  // namespace quipu
