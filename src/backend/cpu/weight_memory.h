// WeightMemory: where packed weights lie: one after the other in a few large buffers.
//
//   slab 0  | matrix | matrix | matrix | ...      32 MiB or one larger matrix, in huge pages
//
// A matrix of its own mapping would be rounded up to huge pages, or, below 2 MiB, lie in small
// pages: a stream of 30 GB/s meets a new small page every 140 ns and waits for its translation, in
// a virtual machine for two. A slab is given back when the last of its matrices is gone.
//
// THREADS: one caller at a time, as Backend::load_linear.
#pragma once

#include <cstddef>
#include <memory>

#include "base/aligned_buffer.h"

namespace quipu::cpu {

class WeightMemory {
 public:
  // Zero bytes, 64-byte aligned, and the slab that they lie in.
  struct Run {
    std::shared_ptr<AlignedBuffer> slab;
    std::byte* data = nullptr;
  };

  // ERRORS: kResourceExhausted when the system refuses.
  Result<Run> allocate(size_t bytes);

 private:
  std::weak_ptr<AlignedBuffer> slab_;  // the last one begun
  size_t used_ = 0;                    // of it
};

}  // namespace quipu::cpu
