#include "backend/cpu/linear.h"

#include <algorithm>
#include <atomic>

#include "backend/cpu/packed_weight.h"
#include "base/check.h"
#include "base/units.h"

namespace quipu::cpu {

namespace {

constexpr size_t kLayouts = 3;
// Packed activations of one super-block: they stay in a 1 MiB L2 beside tiles and results. More was
// measured slower.
constexpr size_t kSuperBlockBytes = 288 * kKiB;
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
  // The work split: groups of tiles, of all outputs, once for each part of the tokens. A thread
  // does its groups for one super-block of tokens after another.
  size_t token_parts = 1;
  size_t group_tiles = kTileGroup;
  size_t super_blocks = 1;         // of a part
  size_t total_cost = 0;           // UNITS: bytes of tiles, over all outputs
  const size_t* first_group = {};  // SHAPE: [threads + 1]
  Turn* turns = {};                // SHAPE: [threads]
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

constexpr size_t kSumStride = kTileGroup * kLanes;
using Sums = float[kTokenBlock * kSumStride];

// One group of tiles times one block of tokens.
void multiply_block(const Job& job, const LinearOutput& output, std::byte* memory, size_t tile,
                    size_t tile_count, size_t block, Sums& sums) {
  const PackedWeight& weight = packed(output);
  const BlockLayout layout = weight.traits().layout;
  const uint8_t* tiles[kTileGroup];
  for (size_t i = 0; i < tile_count; ++i) tiles[i] = weight.tile(tile + i);
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
      kSumStride,
      weight.traits().zero};
  weight.dot()(dot);
}

// Where the products of a group of tiles and a block of tokens go.
struct Place {
  size_t column, columns, tokens;
  float* y;
};

Place place_of(const Job& job, const LinearOutput& output, size_t tile, size_t tile_count,
               size_t block) {
  const size_t column = tile * kLanes;
  const auto features = static_cast<size_t>(packed(output).out_features());
  return {column, std::min(tile_count * kLanes, features - column), block_tokens(job, block),
          output.y + block * kTokenBlock * output.y_stride + column};
}

// Asks for the lines that results go to, before the products that take their time.
void ask_for(const Place& place, size_t y_stride) {
  for (size_t t = 0; t < place.tokens; ++t) {
    const float* row = place.y + t * y_stride;
    for (size_t c = 0; c < place.columns; c += kLanes) __builtin_prefetch(row + c, 1);
  }
}

void store_block(const Job& job, const LinearOutput& output, std::byte* memory, size_t tile,
                 size_t tile_count, size_t block) {
  alignas(64) Sums sums;
  const Place place = place_of(job, output, tile, tile_count, block);
  ask_for(place, output.y_stride);
  multiply_block(job, output, memory, tile, tile_count, block, sums);
  job.kernels->store({sums, kSumStride,
                      output.bias == nullptr ? nullptr : output.bias + place.column, place.y,
                      output.y_stride, static_cast<int>(place.tokens),
                      static_cast<int>(place.columns), output.store == LinearStore::kAdd ? 1 : 0});
}

// The same tiles of gate and up; neither leaves the cache before they meet.
void store_gated_block(const Job& job, std::byte* memory, size_t tile, size_t tile_count,
                       size_t block) {
  alignas(64) Sums sums[2];
  const Place place = place_of(job, job.args->outputs[0], tile, tile_count, block);
  ask_for(place, job.args->outputs[0].y_stride);
  for (size_t i = 0; i < 2; ++i) {
    const LinearOutput& output = job.args->outputs[i];
    multiply_block(job, output, memory, tile, tile_count, block, sums[i]);
    if (output.bias == nullptr) continue;
    job.kernels->store({sums[i], kSumStride, output.bias + place.column, sums[i], kSumStride,
                        static_cast<int>(place.tokens), static_cast<int>(place.columns), 0});
  }
  const auto activation = job.kernels->activation[static_cast<int>(*job.args->gate)];
  for (size_t t = 0; t < place.tokens; ++t) {
    activation(sums[0] + t * kSumStride, sums[1] + t * kSumStride,
               place.y + t * job.args->outputs[0].y_stride, place.columns);
  }
}

// What is computed together: an output, or gate and up.
struct Part {
  size_t output;  // of a gate and up: the gate
  size_t tiles, tile_bytes;
};

// visit(part, token part) in the order of the work, until it returns true.
template <typename Visit>
void for_each_part(const Job& job, const Visit& visit) {
  for (size_t token_part = 0; token_part < job.token_parts; ++token_part) {
    for (size_t i = 0; i < job.args->outputs.size(); ++i) {
      const PackedWeight& weight = packed(job.args->outputs[i]);
      Part part{i, weight.tile_count(), weight.tile_bytes()};
      if (job.args->gate) part.tile_bytes += packed(job.args->outputs[++i]).tile_bytes();
      if (visit(part, token_part)) return;
    }
  }
}

// Where each thread's groups begin: the work is a line of token_parts * total_cost bytes, and a
// group belongs to the thread on whose stretch it begins.
void split_groups(const Job& job, size_t threads, size_t* first_group) {
  const size_t line = job.token_parts * job.total_cost;
  size_t base = 0, groups_before = 0, thread = 0;
  for_each_part(job, [&](const Part& part, size_t) {
    const size_t groups = ceil_div(part.tiles, job.group_tiles);
    const size_t bytes = part.tiles * part.tile_bytes;
    for (; thread < threads && line * thread / threads < base + bytes; ++thread) {
      const size_t at = line * thread / threads - base;
      first_group[thread] =
          groups_before + std::min(groups, ceil_div(at, job.group_tiles * part.tile_bytes));
    }
    base += bytes;
    groups_before += groups;
    return false;
  });
  for (; thread <= threads; ++thread) first_group[thread] = groups_before;
}

// One group of tiles times one super-block of tokens.
void multiply_group(const Job& job, std::byte* memory, size_t group, size_t super_block) {
  for_each_part(job, [&](const Part& part, size_t token_part) {
    const size_t groups = ceil_div(part.tiles, job.group_tiles);
    if (group >= groups) {
      group -= groups;
      return false;
    }
    const size_t first = job.blocks * token_part / job.token_parts;
    const size_t blocks = job.blocks * (token_part + 1) / job.token_parts - first;
    const size_t begin = first + blocks * super_block / job.super_blocks;
    const size_t end = first + blocks * (super_block + 1) / job.super_blocks;
    const size_t tile = group * job.group_tiles;
    const size_t count = std::min(job.group_tiles, part.tiles - tile);
    for (size_t block = begin; block < end; ++block) {
      if (job.args->gate) {
        store_gated_block(job, memory, tile, count, block);
      } else {
        store_block(job, job.args->outputs[part.output], memory, tile, count, block);
      }
    }
    return true;
  });
}

// This thread's share of the products, and then what others have not come to yet: a core may be
// slower than its neighbour, or have been taken away for a while.
void multiply(const Job& job, std::byte* memory, size_t thread, size_t threads) {
  constexpr size_t kHelped = 7;  // of many threads, those after it
  for (size_t i = 0; i < std::min(threads, kHelped + 1); ++i) {
    const size_t owner = (thread + i) % threads;
    const size_t first = job.first_group[owner], groups = job.first_group[owner + 1] - first;
    const size_t units = groups * job.super_blocks;
    std::atomic<size_t>& next = job.turns[owner].next;
    if (next.load(std::memory_order_relaxed) >= units) continue;
    for (size_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) {
      multiply_group(job, memory, first + unit % groups, unit / groups);
    }
  }
}

Job make_job(const LinearArgs& args, const KernelTable& kernels, size_t threads) {
  QUIPU_CHECK(
      !args.gate || (args.outputs.size() == 2 && args.outputs[0].weight->out_features() ==
                                                     args.outputs[1].weight->out_features()),
      "a gate needs two outputs of one size, not {} outputs", args.outputs.size());
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
  if (tiles < 16 * threads) job.group_tiles = 2;
  if (tiles < 4 * threads) job.group_tiles = 1;
  const size_t blocks = ceil_div(job.blocks, job.token_parts);
  const size_t block_bytes = ceil_div(job.packed_bytes, job.blocks);
  job.super_blocks = ceil_div(blocks, std::max<size_t>(1, kSuperBlockBytes / block_bytes));
  return job;
}

}  // namespace

void run_linear(const LinearArgs& args, const KernelTable& kernels, ThreadPool& pool,
                Scratch& scratch) {
  if (args.tokens == 0 || args.outputs.empty()) return;
  const auto all_threads = static_cast<size_t>(pool.threads());
  Job job = make_job(args, kernels, all_threads);
  const bool alone = all_threads == 1 || job.total_cost * args.tokens < kAloneWork;
  split_groups(job, alone ? 1 : all_threads, scratch.first_unit.data());
  for (Turn& turn : scratch.turns) turn.next.store(0, std::memory_order_relaxed);
  job.first_group = scratch.first_unit.data();
  job.turns = scratch.turns.data();
  if (alone) {
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
