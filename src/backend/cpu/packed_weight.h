// PackedWeight: a weight matrix cut into tiles of 16 output rows, as the dot kernels read it.
//
//   matrix   | tile 0: rows 0..15 | tile 1: rows 16..31 | ...   each tile_bytes, 64-byte aligned
//
// Rows past the last and columns past the last are zero, so odd sizes need no special case. Plain
// tiles ([16] runs over rows):
//
//   kF32    [in_features][16] f32          kF16   [in_features][16] f16
//   kBf16   [in_features / 2][16][2] bf16
//
// A quantised tile is a run of blocks of n = 8 groups of 32 columns (the last may have fewer), each
// with its scales, filled up to 64 bytes, and then its codes, so that a matrix is read as one
// stream from front to back: scales behind the codes were a wait for memory in every block.
//
//   kU8     [n] scale[16] f16 | [n][8][16][4] u8
//   kU4     [n] scale[16] f16 | [n][4][16][4] u8
//           byte b of quad j: low nibble column 4 j + b, high nibble column 4 (j + 4) + b
//   ..Min   the same with [n] { scale[16] f16, minimum[16] f16 }
//   kU4K    d[16] f16, -dmin[16] f16, scale[8][16] u8, minimum[8][16] u8 | codes as kU4
//   kU8K    the same | codes as kU8
//   kU6K    d[16] f16, scale[16][16] i8 | [8] { nibbles [4][16][4], planes [2][16][4] }
//           bits 2 i, 2 i + 1 of plane h: the high bits of quad 4 h + i
//
// Stored type -> pack: Q8_0 kU8 (zero point 128), Q5_0 kU8 (16), Q5_1 kU8Min, Q4_0 kU4 (8),
// Q4_1 kU4Min, Q4_K kU4K, Q5_K kU8K, Q6_K kU6K, plain types themselves.
//
// OWNS: the packed bytes, with the other weights of their slab (weight_memory.h). THREADS:
// immutable after packing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/weight_memory.h"

namespace quipu::cpu {

class ThreadPool;

// What the activations of a product look like (kernels.h).
enum class BlockLayout { kF32, kBf16, kCodes };

struct PackTraits {
  Pack pack;
  BlockLayout layout;
  size_t group;         // columns per unit of DotArgs::k
  size_t column_bytes;  // bytes of a tile per such unit, without scales
  size_t scale_bytes;   // bytes of scales per group, or per block of a k-quant
  bool super_scales;
  ZeroPoint zero = ZeroPoint::k8;  // where codes have a zero point
};

class PackedWeight final : public LinearWeight {
 public:
  // ERRORS: kUnsupported (not a matrix, no columns), kResourceExhausted.
  static Result<std::unique_ptr<PackedWeight>> create(const TensorView& weight,
                                                      WeightMemory& memory, ThreadPool& pool,
                                                      const KernelTable& kernels);

  int64_t out_features() const override { return out_features_; }
  int64_t in_features() const override { return in_features_; }
  DType dtype() const override { return dtype_; }
  size_t bytes() const override { return tile_bytes_ * tile_count(); }
  std::string kernel() const override;

  const PackTraits& traits() const { return traits_; }
  size_t k() const { return k_; }  // UNITS: as DotArgs::k
  size_t tile_count() const { return (static_cast<size_t>(out_features_) + kLanes - 1) / kLanes; }
  size_t tile_bytes() const { return tile_bytes_; }
  const uint8_t* tile(size_t index) const { return tiles_ + index * tile_bytes_; }
  DotFn dot() const { return dot_; }

 private:
  PackedWeight() = default;

  int64_t out_features_ = 0, in_features_ = 0;
  DType dtype_ = DType::kF32;
  PackTraits traits_{};
  size_t k_ = 0;
  size_t tile_bytes_ = 0;
  std::shared_ptr<AlignedBuffer> slab_;
  uint8_t* tiles_ = nullptr;  // in the slab
  DotFn dot_ = nullptr;
  const char* isa_ = "";
};

}  // namespace quipu::cpu
