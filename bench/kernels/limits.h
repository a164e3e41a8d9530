// What the machine can do, measured once per run, and the benchmarks' shared backend.
//
// Each benchmark reports its rate and its share of the limit that binds it: `share` of reads for
// work that streams memory, of the multipliers for work that reuses it.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <memory>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/random.h"

namespace quipu::bench {

struct Limits {
  Isa isa;
  int threads;
  double read_bytes;  // UNITS: bytes per second
  CpuPeaks peaks;
};

// QUIPU_ISA chooses the set, QUIPU_THREADS the threads (default: every core).
const Limits& limits();
Backend& backend();

std::vector<float> random_floats(size_t n, uint64_t seed);

// Adds rate and share counters: `work` per iteration against `limit` per second.
void report(benchmark::State& state, const char* unit, double work, double limit);

// Runs `round`, which reads `bytes` of memory, with a plain read before each: the rate is that of
// the rounds, the share the median of round against read. REQUIRES: the benchmark uses manual time.
void run_beside_reads(benchmark::State& state, double bytes, const std::function<void()>& round);

}  // namespace quipu::bench
