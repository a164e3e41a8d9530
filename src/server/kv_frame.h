// KvFrame: one look at the cache for the page: blocks, tree, owners and counters as plain values,
// cut to a size that does not grow with the pool.
//
// Large pools are summarised: a cell of the map stands for `blocks_per_cell` blocks that follow
// each other. A tenant sees its own blocks, tree and requests, and nothing of what others have: the
// rest of the pool looks free to it, and its own blocks come first, so that their places tell
// nothing either. An operator sees all.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "app/engine_thread.h"
#include "kv/kv_view.h"
#include "server/access.h"
#include "server/served_model.h"

namespace quipu {

struct KvCell {
  std::array<int32_t, kKvBlockStates> blocks{};  // by state
  int32_t users = 0;         // the most sequences that read one of them
  int32_t hits = 0;          // the most look-ups that found one
  int64_t used_ticks = 0;    // the last use. UNITS: ticks of 0.1 s of the cache's clock; 0: unknown
  KvOwner owner = kNoOwner;  // of the first of its blocks that is held
  bool operator==(const KvCell&) const = default;
};

struct KvOwnerUse {
  std::string label;
  int64_t blocks = 0;
  uint64_t bytes = 0;
};

struct KvFrame {
  struct Group {
    int layers = 0;
    int64_t window = 0;  // 0: keeps everything
    uint64_t block_bytes = 0;
    int total = 0, blocks_per_cell = 1;
    KvBlockStates states;
    std::vector<KvCell> cells;
    std::vector<std::pair<std::string, uint64_t>> format_bytes;  // of a block, by format
  };
  bool shows_all = false;  // else what is counted here is the tenant's own, and totals are left out
  int64_t now_ticks = 0;
  double look_ms = 0;  // how long the engine thread was kept
  std::vector<Group> groups;
  std::vector<KvOwnerUse> owners;  // by KvOwner
  std::vector<KvRunView> tree;
  bool has_tree = false;
  EngineStatistics statistics;
  std::vector<EngineSnapshot::Task> running;
  int waiting = 0;
  uint64_t pool_bytes = 0;
  // UNITS: seconds and count since the start, of ServingMetrics.
  struct Sum {
    double seconds = 0;
    uint64_t count = 0;
  };
  Sum first_token, between_tokens, step, queue;
  uint64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
};

// Makes the frames of one watcher, whose owners keep their numbers from frame to frame.
// THREADS: engine thread only.
class KvFrameMaker {
 public:
  explicit KvFrameMaker(Caller caller) : caller_(std::move(caller)) {}

  KvFrame make(const EngineSnapshot& snapshot, const Clock& clock, bool with_tree);

 private:
  KvOwner owner_of(std::string_view salt);
  bool is_seen(std::string_view salt) const {
    return caller_.is_operator() || salt.starts_with(caller_.tenant);
  }
  std::string label_of(std::string_view salt);
  void add_group(const EngineSnapshot& snapshot, int group, KvFrame& frame);

  Caller caller_;
  std::map<std::string, KvOwner, std::less<>> numbers_;  // by salt
  std::vector<KvOwnerUse> owners_;
  int salts_named_ = 0;
};

// The forms in which a frame goes out. `before`: the cells that the reader has of each group; only
// what changed is told, and they are brought up to date. Without it everything is told.
Json frame_to_json(const KvFrame& frame, const ServedModel& model,
                   std::vector<std::vector<KvCell>>* before);

}  // namespace quipu
