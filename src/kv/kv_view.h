// KvView: what lies in the cache, block by block and as a tree, for whoever shows it.
//
// Plain values, made by looking at everything: O(blocks + nodes), so only while somebody watches.
// THREADS: engine thread only; what comes out may go anywhere.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/kv_cache.h"

namespace quipu {

enum class KvBlockState : uint8_t { kFree, kOpen, kClosed, kCached, kInFlight };
inline constexpr int kKvBlockStates = 5;

// A number that stands for a salt; equal for salts whose blocks are to be shown as one.
using KvOwner = int32_t;
inline constexpr KvOwner kNoOwner = -1;

struct KvBlockView {
  KvBlockState state = KvBlockState::kFree;
  KvOwner owner = kNoOwner;  // of open blocks and of those in flight: see view_blocks()
  int32_t users = 0;         // sequences that read it now
  int32_t hits = 0;
  int64_t last_use_ns = 0;  // 0: not known
};

// Names the owner of a salt; asked once per salt and call.
using KvOwnerOf = std::function<KvOwner(std::string_view salt)>;

// Every block of a group. States add up to KvCache::block_states(). What is open belongs to running
// sequences, which the cache does not know: kNoOwner. SHAPE: result: [total_blocks(group)].
std::vector<KvBlockView> view_blocks(const KvCache& cache, int group, const KvOwnerOf& owner_of);

// A stretch of the prefix tree without a fork, whose nodes were hit equally often.
struct KvRunView {
  int parent = -1;  // index of the run before; -1: it begins at the root
  KvOwner owner = kNoOwner;
  int64_t position = 0;  // tokens before it
  int64_t tokens = 0;
  int32_t nodes = 0;  // blocks of each group, if all are there
  int32_t hits = 0;   // look-ups that came through it
  int32_t holders = 0, pins = 0;
  bool ends_in_tail = false;
  int32_t hidden_children = 0;  // runs that follow it and were left out
  int64_t last_use_ns = 0;
  std::vector<TokenId> first_tokens;  // at most first_tokens_max
};

struct KvTreeLimits {
  size_t runs_max = 160;
  size_t first_tokens_max = 24;
};

// The tree under the salts whose owner is not kNoOwner: the runs used last, parents before
// children. SHAPE: result: at most runs_max.
std::vector<KvRunView> view_tree(const KvCache& cache, const KvOwnerOf& owner_of,
                                 const KvTreeLimits& limits = {});

}  // namespace quipu
