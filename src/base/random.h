// Random numbers that are a pure function of what they are for.
//
// philox4x32: a counter-based generator; the same (key, counter) gives the same numbers on every
// machine, thread and order of calls. Sampling keys it by (request seed, position), so a request's
// text does not depend on what else runs (architecture.md, determinism contract, rule 4).
// SOURCE: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
#pragma once

#include <array>
#include <cstdint>

namespace quipu {

std::array<uint32_t, 4> philox4x32(uint64_t key, uint64_t counter_low, uint64_t counter_high);

// Uniform in [0, 1) with 53 random bits, for draw number `draw` at `position` of a request.
double uniform_at(uint64_t seed, uint64_t position, uint64_t draw);

// A sequential stream over philox for tests, synthetic weights and simulations.
// THREADS: thread-compatible.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}

  uint64_t next_u64();
  // Uniform in [0, bound). REQUIRES: bound > 0.
  uint64_t next_below(uint64_t bound) { return next_u64() % bound; }
  // Uniform in [0, 1).
  double next_double();
  // Standard normal (Box-Muller).
  float next_normal();

 private:
  uint64_t seed_;
  uint64_t counter_ = 0;
};

}  // namespace quipu
