// Scratch: working memory of the operations, kept between calls and grown when a call needs more,
// so that a steady decode step allocates nothing.
//
// THREADS: grow from the calling thread, before the job; then each thread uses its own part.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/units.h"

namespace quipu::cpu {

// Memory that grows by at least half, so that a growing context reallocates seldom. Contents are
// lost when it grows.
class GrowingBuffer {
 public:
  // At least `bytes` bytes, 64-byte aligned.
  std::byte* reserve(size_t bytes) {
    if (bytes > buffer_.size()) {
      auto grown = AlignedBuffer::allocate(round_up(std::max(bytes, buffer_.size() * 3 / 2), 4096));
      QUIPU_CHECK(grown.ok(), "scratch memory: {}", grown.status().message());
      buffer_ = std::move(grown).value();
    }
    return buffer_.data();
  }

 private:
  AlignedBuffer buffer_;
};

// How far a thread's share of an operation has come: units of it are taken one by one, by itself
// and, once they have none of their own, by others. On a line of its own, which only helpers touch.
struct alignas(64) Turn {
  std::atomic<size_t> next{0};
};

struct Scratch {
  explicit Scratch(int threads)
      : per_thread(static_cast<size_t>(threads)),
        first_unit(static_cast<size_t>(threads) + 1),
        turns(static_cast<size_t>(threads)) {}
  GrowingBuffer shared;
  std::vector<GrowingBuffer> per_thread;
  std::vector<size_t> first_unit;  // SHAPE: [threads + 1]: where each one's share begins
  std::vector<Turn> turns;

  void reserve_per_thread(size_t bytes) {
    for (GrowingBuffer& buffer : per_thread) buffer.reserve(bytes);
  }
};

}  // namespace quipu::cpu
