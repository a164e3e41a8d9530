// ReadAhead: what attention reads next, asked for line by line while it computes. A core waits for
// few lines of memory at a time, so memory is read at its speed only if some are always under way:
// during the softmax and the rounding of weights as well as during products. Kernels ask at a pace of
// their own (below); together they get through a chunk's bytes in about the time of a chunk.
//
// THREADS: one per thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace quipu::cpu {

struct ReadAhead {
  const uint8_t* next = nullptr;  // the next line of the run that ends at `end`
  const uint8_t* end = nullptr;
  const uint8_t* const* runs = nullptr;  // those after it, of run_bytes each
  int run_count = 0;
  size_t run_bytes = 0;
};

// Asks for up to so many lines, from one run to the next.
void ask_across_runs(ReadAhead& ahead, int lines);

// Static: kernels compile it with their own instruction sets.
template <int kLines>
static inline __attribute__((always_inline)) void ask_ahead(ReadAhead& ahead) {
  if (ahead.end - ahead.next < kLines * 64) return ask_across_runs(ahead, kLines);
#pragma GCC unroll 8
  for (int i = 0; i < kLines; ++i) __builtin_prefetch(ahead.next + 64 * i, 0, 2);  // into L2
  ahead.next += 64 * kLines;
}

}  // namespace quipu::cpu
