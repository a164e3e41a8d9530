// The kernel table: every hot loop of the CPU backend as a plain function pointer, one table per
// instruction set.
//
// This header and the kernel files see <stddef.h>, <stdint.h> and intrinsics only. A C++ library
// header there would compile inline functions with wide instructions, and the linker could pick
// those copies for the whole program; a test looks at the objects with nm.
//
// Layouts of activations that kernels read. A block is up to kTokenBlock tokens side by side:
//
//   f32    [k][tokens] f32
//   bf16   [k / 2][tokens][2] bf16
//   codes  [k / 32][tokens] QuantGroup
//
// Layouts of weights: a tile of 16 output rows, so that one vector holds one element of 16 rows and
// dot products need no horizontal sums (the key tiles of backend/kv_layout.h are the same thing,
// with 16 tokens for 16 rows). Quantised tiles are drawn in packed_weight.h.
//
// THREADS: the table is immutable; kernels are pure functions of their arguments.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/read_ahead.h"

namespace quipu::cpu {

constexpr int kLanes = 16;          // rows of a weight tile, tokens of a key tile
constexpr int kTokenBlock = 24;     // most tokens of an activation block
constexpr int kTileGroup = 4;       // most tiles one call takes
constexpr int kGroup = 32;          // elements that share one activation scale
constexpr size_t kSuperGroups = 8;  // groups of a k-quant super-block of 256

// How many sums a kernel keeps in registers: speed only, never bits. Sanitizers instrument every
// unrolled step, which takes minutes to compile, so their builds keep blocks small.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(QUIPU_SMALL_BLOCKS)
constexpr int block_of(int full) { return full < 2 ? full : 2; }
#else
constexpr int block_of(int full) { return full; }
#endif

// How a weight matrix is packed.
enum class Pack : uint8_t {
  kF32,    // [k][16] f32
  kF16,    // [k][16] f16
  kBf16,   // [k / 2][16][2] bf16
  kU8,     // 8-bit codes, f16 scale per group, zero point in DotArgs
  kU8Min,  // 8-bit codes, f16 scale and minimum per group
  kU4,     // 4-bit codes, f16 scale per group, zero point 8
  kU4Min,  // 4-bit codes, f16 scale and minimum per group
  kU4K,    // 4-bit codes, k-quant scales and minima
  kU8K,    // 8-bit codes, k-quant scales and minima
  kU6K,    // 4-bit and 2-bit planes, signed scales per 16
};
constexpr int kPackCount = 10;

// Zero points of weight codes without a minimum: 8, 16 and 128. (Q6_K's is 32.)
enum class ZeroPoint : uint8_t { k8, k16, k128 };
constexpr int kZeroPointCount = 3;

// 32 activations of one token, quantised: x = scale * code. What a sum of products with weight codes
// starts with is worked out here, once for all outputs.
struct QuantGroup {
  int8_t codes[kGroup];
  float scale;                          // amax / 127
  float scaled_sum;                     // scale * sum of the codes
  int32_t zero_sums[kZeroPointCount];   // -sum of the codes times each zero point
  int32_t half_sums[2];                 // -sum of the first and of the last 16 times 32
  int32_t unused;                       // a group is a line of memory
};
static_assert(sizeof(QuantGroup) == 64);

// out[t][16 * tile + lane] = sum over k of tile[k][lane] * x[k][t].
struct DotArgs {
  const uint8_t* const* tiles;  // SHAPE: [tile_count]
  int tile_count;               // 1 .. kTileGroup
  size_t k;                     // UNITS: elements (kF32, kF16), pairs (kBf16), groups (the others)
  const void* x;                // SHAPE: [k][x_stride] of the block's layout
  size_t x_stride;              // tokens of the block
  int tokens;                   // 1 .. kTokenBlock
  float* out;                   // SHAPE: [tokens][out_stride]
  size_t out_stride;
  ZeroPoint zero;  // kU8: of the codes
  // Plain packs, few tokens: memory that the next calls read, asked for at the pace of this one
  // (as many bytes as a tile has), or null.
  const uint8_t* ahead = nullptr;
};
using DotFn = void (*)(const DotArgs&);

// Adds bias and residual to finished sums and stores the valid ones.
struct StoreArgs {
  const float* sums;  // SHAPE: [tokens][sum_stride]
  size_t sum_stride;
  const float* bias;  // SHAPE: [columns] or null
  float* y;           // SHAPE: [tokens][y_stride]
  size_t y_stride;
  int tokens;
  int columns;
  int accumulate;  // 1: y += ...
};

// One row's scores of one chunk become weights: x = exp(x - maximum), outside [begin, end) zero.
struct SoftmaxArgs {
  float* scores;   // SHAPE: [512], in place; whole tiles of 16 around [begin, end) are written
  int begin, end;  // UNITS: positions of the chunk
  float scale;
  float softcap;  // 0: none
  float maximum;  // out
  float sum;      // out
  // Added after scale and soft cap, or null. SHAPE: as scores, readable where they are written.
  const float* bias = nullptr;
  ReadAhead* ahead = nullptr;  // few rows: what to ask for meanwhile, or null
};

// values[r][d] += sum over tokens of weight * value, run by run. A run is one token (f32), or two
// (bf16): v[run][d] is then a pair, and so is a weight; a sum takes in the second token first.
struct ValuesArgs {
  const float* weights;  // SHAPE: [rows][weight_stride] f32 or pairs of bf16, at the first run
  size_t weight_stride;  // UNITS: words of 4 bytes
  const uint8_t* v;      // SHAPE: [runs][run_bytes]
  size_t run_bytes;
  float* values;  // SHAPE: [rows][value_stride]
  size_t value_stride;
  int rows, runs, dim;
  // bf16: the bits of a pair that are read, where not both tokens are seen: nothing is known of the
  // other, not even that it is a number.
  uint32_t mask;
  const uint8_t* ahead = nullptr;  // as in DotArgs: as many bytes as the runs of v have
};
constexpr uint32_t kAllTokens = 0xFFFFFFFF;

// The running result of one row over chunks.
struct RowState {
  float maximum;  // -infinity before the first chunk
  float sum;
};

struct NormRowArgs {
  const float* x;
  float* y;
  const float* weight;
  const float* bias;  // or null
  size_t dim;
  float epsilon;
};

enum class ActivationKernel : uint8_t { kSilu, kGeluTanh, kGeluErf, kRelu };
constexpr int kActivationCount = 4;

struct KernelTable {
  const char* name;
  int int8_tokens;  // tokens a dot kernel keeps in registers, for benchmarks

  DotFn dot[kPackCount];

  // Activations of one token into its column of a block. `n` elements; the tail of the last group
  // or pair is zero.
  void (*pack_f32)(const float* x, size_t n, float* out, size_t stride);
  void (*pack_bf16)(const float* x, size_t n, uint32_t* out, size_t stride);
  void (*pack_codes)(const float* x, size_t n, QuantGroup* out, size_t stride);

  void (*store)(const StoreArgs&);

  void (*softmax)(SoftmaxArgs&);
  void (*values_f32)(const ValuesArgs&);
  void (*values_bf16)(const ValuesArgs&);
  // state and values take in one chunk's partial result.
  void (*merge)(RowState& state, float* values, const RowState& part, const float* part_values,
                size_t dim);
  // out = values / state.sum
  void (*finish)(const RowState& state, const float* values, float* out, size_t dim);

  void (*norm_rms)(const NormRowArgs&);
  void (*norm_layer)(const NormRowArgs&);
  // cos_sin: SHAPE: [rot_dim / 2][2]; x: one head.
  void (*rope_halves)(float* x, const float* cos_sin, size_t rot_dim);
  void (*rope_interleaved)(float* x, const float* cos_sin, size_t rot_dim);
  // up: or null
  void (*activation[kActivationCount])(const float* gate, const float* up, float* out, size_t n);
  void (*add)(const float* a, const float* b, float* out, size_t n);
  void (*soft_cap)(float* x, size_t n, float cap);
  void (*to_bf16)(const float* x, uint16_t* out, size_t n);  // out may be where x is
  int32_t (*arg_max)(const float* x, size_t n);

  // Sums of a buffer's bytes as words (read bandwidth); and loops that keep the multipliers busy.
  // Each peak loop returns the operations it did (two per multiply-add) and keeps a result in
  // `sink`.
  uint64_t (*read_words)(const uint64_t* words, size_t count);
  double (*peak_int8)(size_t iterations, int32_t* sink);
  double (*peak_bf16)(size_t iterations, float* sink);
  double (*peak_f32)(size_t iterations, float* sink);
};

const KernelTable& scalar_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
// Replaces the bf16 entries. REQUIRES: avx512_bf16.
void use_avx512_bf16(KernelTable& table);

}  // namespace quipu::cpu
