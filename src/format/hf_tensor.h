// HfTensor: where one GGUF-named tensor of a Hugging Face model comes from, and how to make it.
// THREADS: immutable; convert_tensor works on the caller's memory only.
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "format/hf_architectures.h"
#include "tensor/tensor_view.h"

namespace quipu {

struct HfTensor {
  size_t file = 0;      // index of the shard
  uint64_t offset = 0;  // UNITS: bytes from the start of the shard
  uint64_t source_bytes = 0;
  DType source_dtype = DType::kF32;
  Shape source_shape;  // as the file has it; 1 or 2 dimensions
  RowOrder order = RowOrder::kSame;
  int64_t heads = 1;  // of a permuted tensor
  float added = 0;    // to every value

  // Whether the file's bytes are what GGUF would hold in `dtype`.
  bool is_view(DType dtype) const {
    return order == RowOrder::kSame && added == 0 && dtype == source_dtype;
  }
};

// Writes the tensor as `dtype` in GGUF's row order, a large one on `threads` threads. The result
// does not depend on their number.
// SHAPE: source: source_bytes of the file; out: rows of row_bytes(dtype, columns).
// REQUIRES: source_dtype is f32, f16 or bf16, and dtype's block divides the columns,
// and threads >= 1; a transposed tensor has nothing added.
void convert_tensor(const HfTensor& tensor, std::span<const std::byte> source, DType dtype,
                    int threads, std::span<std::byte> out);

}  // namespace quipu
