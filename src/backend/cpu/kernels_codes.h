// Kernels of attention over integer codes of keys and values (int8 and int4, backend/kv_layout.h),
// one table per instruction set, beside the table of kernels.h and under the same rules.
//
// Queries and weights are quantised too, to whole numbers of up to kWideMax in size ("wide codes",
// about 15 bits), so that all products and their sums are exact integers: 255 * 16256 * 512 < 2^31.
// Wide codes are packed four at a time in 64 bits, in a form of the instruction set's own.
//
// A vector of codes has 16 lanes of four codes without sign. In int4 a byte holds two codes; the
// low halves of a vector are one quad, the high halves the next one. They are multiplied with bytes
// of up to kByteMax in size, four in 32 bits.
//
// THREADS: the table is immutable; kernels are pure functions of their arguments.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/kernels.h"

namespace quipu::cpu {

constexpr int32_t kWideMax = 127 * 128;
constexpr int32_t kByteMax = 127;
constexpr int kKeyGroup = 32;     // elements of an int4 key that share scale and minimum
constexpr int kValueGroup = 64;   // the same of an int4 value
constexpr int kWeightGroup = 32;  // tokens whose weights share a scale where they meet int4 values
constexpr int kGroupTiles = kWeightGroup / kLanes;

// A row of keys or values becomes codes: x[i] is about (codes[i] - 128) * scale, the scale in bf16,
// rounded up. A row of zeros gets scale 0, a row with a value that is not finite a NaN scale.
struct EncodeArgs {
  const float* x;  // SHAPE: [n]
  size_t n;
  uint8_t* codes;  // SHAPE: [n rounded up to 16]; the padding is 128
  uint16_t scale;  // out
};

// A query becomes wide codes: q[i] is about scale * code.
struct QueryCodesArgs {
  const float* q;  // SHAPE: [n]
  size_t n;
  uint64_t* x;  // SHAPE: [n / 4 rounded up], stride apart
  size_t stride;
  float scale;    // out
  int32_t start;  // out: -128 * the sum of all codes
};

// A query becomes bytes: q[i] is about 128 * scale * byte.
struct QueryBytesArgs {
  const float* q;  // SHAPE: [n]
  size_t n;
  float scale;        // of its wide codes
  uint32_t* x;        // SHAPE: [n / 4 rounded up], stride apart
  float* group_sums;  // SHAPE: [groups], stride apart: of the bytes of each kKeyGroup elements
  size_t stride;
};

// int8: out[r][16 * i + lane] = scales[i][lane] * sum over d of (code - 128) * x[d][r].
struct KeyCodesArgs {
  const uint8_t* const* tiles;    // SHAPE: [tile_count]: codes [quads][16][4]
  const uint16_t* const* scales;  // SHAPE: [tile_count]: bf16 [16]
  int tile_count;
  size_t quads;
  const uint64_t* x;      // SHAPE: [quads][stride]
  const int32_t* starts;  // SHAPE: [rows], as query_codes gives them
  size_t stride;
  int rows;
  float* out;  // SHAPE: [rows][out_stride]
  size_t out_stride;
  ReadAhead* ahead = nullptr;  // few rows: what to ask for meanwhile, or null
};

// int4: out[r][16 * i + lane] = base[r][i] + 128 * sum over groups of (scale[lane] * sum of codes *
// x + minimum[lane] * sum of x): in units of the query's wide codes, as base is. A tile is a run of
// groups: scales and minima, bf16 [2][16], then codes.
struct KeyNibblesArgs {
  const uint8_t* const* tiles;  // SHAPE: [tile_count]
  int tile_count;
  size_t quads;
  const uint32_t* x;        // SHAPE: [quads][stride]
  const float* group_sums;  // SHAPE: [groups][stride], as query_bytes gives them
  size_t stride;
  int rows;
  const float* base;  // SHAPE: [rows][base_stride]
  size_t base_stride;
  float* out;
  size_t out_stride;
  ReadAhead* ahead = nullptr;  // as in KeyCodesArgs
};

// One row's softmax weights, times the scales of the values, become wide codes.
struct WeightCodesArgs {
  const float* weights;             // SHAPE: [last], by position
  float* scaled;                    // SHAPE: [last]: working memory
  const uint16_t* const* scales;    // SHAPE: [last / 16]: bf16 [16], by tile
  int begin, end;                   // what the row sees; outside, codes are 0
  int first, last;                  // positions to write, multiples of 16
  uint64_t* x;                      // SHAPE: [(last - first) / 4], stride apart
  size_t stride;
  float scale;  // out: weight * value scale is about scale * code
  int32_t sum;  // out: of the codes
  ReadAhead* ahead = nullptr;
};

// The same for int4 values: bytes, with a scale for each kWeightGroup tokens.
struct WeightBytesArgs {
  const float* weights;           // SHAPE: [512], by position
  const uint16_t* const* scales;  // SHAPE: [32]: bf16 [16], by tile
  const uint16_t* const* minima;
  int begin, end;     // what the row sees; outside, bytes are 0
  int first, last;    // positions to write, multiples of 16
  uint32_t* x;        // SHAPE: [512 / 4], stride apart, by position
  float* scales_out;  // SHAPE: [512 / kWeightGroup], stride apart
  size_t stride;
  float minimum_sum;  // out: sum of weight * minimum
  ReadAhead* ahead = nullptr;
};

// sums[r][d] += sum over t of codes[t][d] * x[t][r]. Reads whole vectors: up to 60 bytes more than
// the last run has.
struct ValueCodesArgs {
  const uint8_t* codes;  // SHAPE: [runs][dim][4], a quad of tokens
  size_t run_bytes;      // from one run to the next
  int runs, dim;
  const uint64_t* x;  // SHAPE: [quads][stride]
  size_t stride;
  int rows;
  int32_t* sums;  // SHAPE: [rows][sum_stride], dim rounded up to 16 used
  size_t sum_stride;
  ReadAhead* ahead = nullptr;
};

// out[r][d] += sum over tokens of code * weight, one step for each kWeightGroup tokens. Reads as
// value_codes does.
struct ValueNibblesArgs {
  // SHAPE: [last_tile]: of 16 tokens, two runs of [dim][4] bytes, two quads of tokens in each.
  const uint8_t* const* tiles;
  size_t run_bytes;
  int first_tile, last_tile, dim;
  const uint32_t* x;    // SHAPE: [last_tile * 4][stride]
  const float* scales;  // SHAPE: [groups of tokens][stride]
  size_t stride;
  int rows;
  float* out;  // SHAPE: [rows][out_stride], dim rounded up to 16 used
  size_t out_stride;
  ReadAhead* ahead = nullptr;
};

// out[d] = scale * (sums[d] - offset), dim rounded up to 16 written.
struct ScaleSumsArgs {
  const int32_t* sums;
  size_t dim;
  int32_t offset;
  float scale;
  float* out;
};

struct CodeKernels {
  void (*encode)(EncodeArgs&);
  void (*query_codes)(QueryCodesArgs&);
  void (*query_bytes)(QueryBytesArgs&);
  void (*key_codes)(const KeyCodesArgs&);
  void (*key_nibbles)(const KeyNibblesArgs&);
  // out[quad][lane] = the quad of rows[lane]: 16 rows of codes as a tile; null rows become 0.
  void (*interleave)(const uint8_t* const* rows, size_t quads, uint8_t* out);
  void (*weight_codes)(WeightCodesArgs&);
  void (*weight_bytes)(WeightBytesArgs&);
  void (*value_codes)(const ValueCodesArgs&);
  void (*value_nibbles)(const ValueNibblesArgs&);
  void (*scale_sums)(const ScaleSumsArgs&);
};

const CodeKernels& scalar_code_kernels();
const CodeKernels& avx2_code_kernels();
const CodeKernels& avx512_code_kernels();

}  // namespace quipu::cpu
