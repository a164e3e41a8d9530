#include "backend/cpu/linear.h"

#include <algorithm>

#include "backend/cpu/packed_weight.h"
#include "base/check.h"
#include "base/units.h"

namespace quipu::cpu {

namespace {

constexpr size_t kLayouts = 3;
// Packed activations of one super-block: they stay in a 1 MiB L2 beside a group of tiles.
constexpr size_t kSuperBlockBytes = 384 * kKiB;
// Up to this many activation elements every thread packs for itself: cheaper than a barrier.
constexpr size_t kPrivatePackElements = 8192;
// Below this many multiply-adds the caller computes alone: cheaper than waking the gang.
constexpr size_t kAloneWork = 32 * kKiB;

struct Job {
  const LinearArgs* args;
  const KernelTable* kernels;
  size_t in_features;
  size_t blocks;  // of kTokenBlock tokens
  bool layout_used[kLayouts] = {};
  bool direct_f32 = false;              // one token: its row is a block as it lies
  size_t layout_offset[kLayouts] = {};  // in the packed activations
  size_t packed_bytes = 0;
  size_t token_parts = 1;  // of the work split
  size_t total_cost = 0;   // UNITS: bytes of tiles, over all outputs
};

const PackedWeight& packed(const LinearOutput& output) {
  return static_cast<const PackedWeight&>(*output.weight);
}

size_t token_bytes(BlockLayout layout, size_t in_features) {
  switch (layout) {
    case BlockLayout::kF32: return in_features * 4;
    case BlockLayout::kBf16: return ceil_div(in_features, 2) * 4;
    case BlockLayout::kCodes: return ceil_div(in_features, kGroup) * sizeof(QuantGroup);
  }
  return 0;
}

size_t block_tokens(const Job& job, size_t block) {
  return std::min<size_t>(kTokenBlock, job.args->tokens - block * kTokenBlock);
}

std::byte* block_data(const Job& job, BlockLayout layout, std::byte* memory, size_t block) {
  return memory + job.layout_offset[static_cast<size_t>(layout)] +
         block * kTokenBlock * token_bytes(layout, job.in_features);
}

// Packs columns [first, last) of one block's tokens. REQUIRES: first is a multiple of kGroup.
void pack_part(const Job& job, BlockLayout layout, std::byte* memory, size_t block, size_t first,
               size_t last) {
  const size_t tokens = block_tokens(job, block);
  std::byte* out = block_data(job, layout, memory, block);
  for (size_t t = 0; t < tokens; ++t) {
    const float* x = job.args->x + (block * kTokenBlock + t) * job.args->x_stride + first;
    const size_t n = last - first;
    switch (layout) {
      case BlockLayout::kF32:
        job.kernels->pack_f32(x, n, reinterpret_cast<float*>(out) + first * tokens + t, tokens);
        break;
      case BlockLayout::kBf16:
        job.kernels->pack_bf16(x, n, reinterpret_cast<uint32_t*>(out) + first / 2 * tokens + t,
                               tokens);
        break;
      case BlockLayout::kCodes:
        job.kernels->pack_codes(
            x, n, reinterpret_cast<QuantGroup*>(out) + first / kGroup * tokens + t, tokens);
        break;
    }
  }
}

// This thread's share of packing: units of (block, run of columns), so that a single block is
// shared too.
void pack_activations(const Job& job, std::byte* memory, size_t thread, size_t threads) {
  const size_t groups = ceil_div(job.in_features, kGroup);
  const size_t runs = job.blocks >= 2 * threads ? 1 : std::min(groups, threads);
  const size_t units = job.blocks * runs;
  for (size_t u = units * thread / threads; u < units * (thread + 1) / threads; ++u) {
    const size_t block = u / runs, run = u % runs;
    const size_t first = groups * run / runs * kGroup;
    const size_t last = std::min(groups * (run + 1) / runs * kGroup, job.in_features);
    for (size_t l = 0; l < kLayouts; ++l) {
      const auto layout = static_cast<BlockLayout>(l);
      if (!job.layout_used[l] || (layout == BlockLayout::kF32 && job.direct_f32)) continue;
      pack_part(job, layout, memory, block, first, last);
    }
  }
}

// One group of tiles times one block of tokens.
void multiply_block(const Job& job, const LinearOutput& output, std::byte* memory, size_t tile,
                    size_t tile_count, size_t block) {
  const PackedWeight& weight = packed(output);
  const BlockLayout layout = weight.traits().layout;
  const uint8_t* tiles[kTileGroup];
  for (size_t i = 0; i < tile_count; ++i) tiles[i] = weight.tile(tile + i);
  alignas(64) float sums[kTokenBlock * kTileGroup * kLanes];
  const size_t tokens = block_tokens(job, block);
  const bool direct = layout == BlockLayout::kF32 && job.direct_f32;
  const DotArgs dot{
      tiles,
      static_cast<int>(tile_count),
      weight.k(),
      direct ? static_cast<const void*>(job.args->x) : block_data(job, layout, memory, block),
      tokens,
      static_cast<int>(tokens),
      sums,
      kTileGroup * kLanes,
      weight.traits().zero};
  weight.dot()(dot);
  const size_t column = tile * kLanes;
  const size_t columns =
      std::min(tile_count * kLanes, static_cast<size_t>(weight.out_features()) - column);
  job.kernels->store({sums, kTileGroup * kLanes,
                      output.bias == nullptr ? nullptr : output.bias + column,
                      output.y + block * kTokenBlock * output.y_stride + column, output.y_stride,
                      static_cast<int>(tokens), static_cast<int>(columns),
                      output.store == LinearStore::kAdd ? 1 : 0});
}

// Tiles [first, last) of one output times token blocks [block_first, block_last).
void multiply_tiles(const Job& job, const LinearOutput& output, std::byte* memory, size_t first,
                    size_t last, size_t block_first, size_t block_last) {
  const size_t block_bytes =
      kTokenBlock * token_bytes(packed(output).traits().layout, job.in_features);
  const size_t super = std::max<size_t>(1, kSuperBlockBytes / block_bytes);
  for (size_t begin = block_first; begin < block_last; begin += super) {
    const size_t end = std::min(begin + super, block_last);
    for (size_t tile = first; tile < last; tile += kTileGroup) {
      const size_t count = std::min<size_t>(kTileGroup, last - tile);
      for (size_t block = begin; block < end; ++block) {
        multiply_block(job, output, memory, tile, count, block);
      }
    }
  }
}

// This thread's share of the products. The work is a line of token_parts * total_cost bytes; a tile
// belongs to the thread on whose stretch it begins.
void multiply(const Job& job, std::byte* memory, size_t thread, size_t threads) {
  const size_t line = job.token_parts * job.total_cost;
  const size_t from = line * thread / threads, to = line * (thread + 1) / threads;
  size_t base = 0;
  for (size_t part = 0; part < job.token_parts; ++part) {
    const size_t block_first = job.blocks * part / job.token_parts;
    const size_t block_last = job.blocks * (part + 1) / job.token_parts;
    for (const LinearOutput& output : job.args->outputs) {
      const PackedWeight& weight = packed(output);
      const size_t tile_bytes = weight.tile_bytes(), tiles = weight.tile_count();
      const size_t first = from <= base ? 0 : std::min(tiles, ceil_div(from - base, tile_bytes));
      const size_t last = to <= base ? 0 : std::min(tiles, ceil_div(to - base, tile_bytes));
      if (first < last) {
        multiply_tiles(job, output, memory, first, last, block_first, block_last);
      }
      base += weight.bytes();
    }
  }
}

Job make_job(const LinearArgs& args, const KernelTable& kernels, size_t threads) {
  Job job{&args, &kernels, static_cast<size_t>(args.outputs[0].weight->in_features()),
          ceil_div(args.tokens, kTokenBlock)};
  size_t tiles = 0;
  for (const LinearOutput& output : args.outputs) {
    const PackedWeight& weight = packed(output);
    QUIPU_CHECK(static_cast<size_t>(weight.in_features()) == job.in_features,
                "products of one input need the same in_features: {} and {}", job.in_features,
                weight.in_features());
    job.layout_used[static_cast<size_t>(weight.traits().layout)] = true;
    job.total_cost += weight.bytes();
    tiles += weight.tile_count();
  }
  job.direct_f32 = args.tokens == 1;
  for (size_t l = 0; l < kLayouts; ++l) {
    if (!job.layout_used[l]) continue;
    job.layout_offset[l] = job.packed_bytes;
    job.packed_bytes +=
        round_up(args.tokens * token_bytes(static_cast<BlockLayout>(l), job.in_features), 64);
  }
  if (tiles < 4 * threads) job.token_parts = std::min(job.blocks, ceil_div(4 * threads, tiles));
  return job;
}

}  // namespace

void run_linear(const LinearArgs& args, const KernelTable& kernels, ThreadPool& pool,
                Scratch& scratch) {
  if (args.tokens == 0 || args.outputs.empty()) return;
  const Job job = make_job(args, kernels, static_cast<size_t>(pool.threads()));
  if (pool.threads() == 1 || job.total_cost * args.tokens < kAloneWork) {
    std::byte* memory = scratch.per_thread[0].reserve(job.packed_bytes);
    pack_activations(job, memory, 0, 1);
    multiply(job, memory, 0, 1);
    return;
  }
  if (args.tokens * job.in_features <= kPrivatePackElements) {
    scratch.reserve_per_thread(job.packed_bytes);
    pool.run([&](int thread, int threads) {
      std::byte* memory = scratch.per_thread[static_cast<size_t>(thread)].reserve(job.packed_bytes);
      pack_activations(job, memory, 0, 1);
      multiply(job, memory, static_cast<size_t>(thread), static_cast<size_t>(threads));
    });
    return;
  }
  std::byte* memory = scratch.shared.reserve(job.packed_bytes);
  pool.run([&](int thread, int threads) {
    pack_activations(job, memory, static_cast<size_t>(thread), static_cast<size_t>(threads));
    pool.barrier();
    multiply(job, memory, static_cast<size_t>(thread), static_cast<size_t>(threads));
  });
}

}  // namespace quipu::cpu
