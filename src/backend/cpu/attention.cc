#include "backend/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <optional>
#include <span>

#include "backend/cpu/attention_join.h"
#include "backend/cpu/attention_rows.h"
#include "base/check.h"
#include "base/units.h"

namespace quipu::cpu {

namespace {

using Job = AttentionJob;
using Workspace = AttentionWorkspace;
using Run = std::span<const AttentionUnit>;

// Below this many multiply-adds the caller computes alone.
constexpr size_t kAloneWork = 32 * kKiB;

// The positions that a token sees.
struct KeyRange {
  int32_t begin, end;
};

KeyRange key_range(const AttentionArgs& args, int32_t sequence, size_t token) {
  if (args.key_counts != nullptr) return {0, args.key_counts[sequence]};
  const int32_t position = args.positions[token];
  if (args.window == 0) return {0, position + 1};
  return {std::max(args.sinks, position - args.window + 1), position + 1};
}

// The sinks that a token sees.
KeyRange sink_range(const AttentionArgs& args, size_t token) {
  return {0, std::min(args.positions[token] + 1, args.sinks)};
}

// What each row sees of the chunk, relative to its start; begin == end where it sees nothing.
void find_ranges(const Job& job, const AttentionUnit& unit, int chunk, Workspace& w) {
  const int32_t start = chunk_start(chunk);
  for (int r = 0; r < unit_rows(unit); ++r) {
    const size_t token = row_place(job, unit, r).token;
    const KeyRange seen = chunk == kSinkChunk ? sink_range(job.args, token)
                                              : key_range(job.args, unit.sequence, token);
    const int begin = std::clamp(seen.begin - start, 0, kChunk);
    const int end = std::clamp(seen.end - start, 0, kChunk);
    w.begin[r] = std::min(begin, end);
    w.end[r] = end;
  }
}

// The bias of a row at the chunk's first position; null without one.
const float* row_bias(const Job& job, const AttentionUnit& unit, int chunk, int r) {
  if (job.args.bias == nullptr) return nullptr;
  const RowPlace place = row_place(job, unit, r);
  return job.args.bias + place.head * job.args.bias_stride + chunk_start(chunk) -
         job.args.positions[place.token];
}

// A chunk of a unit.
struct Piece {
  const AttentionUnit* unit;
  int chunk;
};

// What the rows see of a chunk of codes is asked for from now on, block by block: it fits into L2
// beside the chunk that is computed meanwhile.
void start_ahead(const Job& job, const Piece& piece, Workspace& w) {
  const AttentionUnit& unit = *piece.unit;
  const KvLayerLayout& layout = job.view.layout;
  const int32_t start = chunk_start(piece.chunk);
  const KeyRange first = key_range(job.args, unit.sequence, row_place(job, unit, 0).token);
  const KeyRange last =
      key_range(job.args, unit.sequence, row_place(job, unit, unit_rows(unit) - 1).token);
  const bool all = unit.kind == UnitKind::kJoined;
  const int32_t begin = all ? start : std::max(start, first.begin);
  const int32_t end = all ? start + kChunk : std::min(start + kChunk, last.end);
  int runs = 0;
  for (int32_t t = begin / layout.block_tokens * layout.block_tokens; t < end;
       t += layout.block_tokens) {
    w.ahead_runs[runs++] = head_data(job, unit, t);
  }
  w.ahead = {nullptr, nullptr, w.ahead_runs, runs, layout.head_bytes};
}

// Partial results of every row of the unit for one chunk: w.parts and w.part_values. A row that
// sees nothing has sum 0. Few rows ask for the next piece meanwhile.
void attend_chunk(const Job& job, const AttentionUnit& unit, int chunk, std::optional<Piece> next,
                  Workspace& w) {
  const int rows = unit_rows(unit);
  find_ranges(job, unit, chunk, w);
  int lowest = kChunk, highest = 0;
  for (int r = 0; r < rows; ++r) {
    w.parts[r] = {-std::numeric_limits<float>::infinity(), 0.0f};
    if (w.begin[r] == w.end[r]) continue;
    lowest = std::min(lowest, w.begin[r]);
    highest = std::max(highest, w.end[r]);
  }
  if (lowest >= highest) return;
  find_places(job, unit, chunk, lowest, highest, w);
  ReadAhead* const ahead = job.has_value_codes() ? ahead_of(unit, w) : nullptr;
  if (ahead != nullptr && next) start_ahead(job, *next, w);
  if (job.has_key_codes()) {
    compute_scores_codes(job, unit, lowest, highest, w);
  } else {
    compute_scores_plain(job, unit, lowest, highest, w);
  }
  for (int r = 0; r < rows; ++r) {
    if (w.begin[r] == w.end[r]) continue;
    SoftmaxArgs softmax{w.scores + r * kChunk,
                        w.begin[r],
                        w.end[r],
                        job.args.scale * w.q_scale[r],
                        job.args.softcap,
                        0.0f,
                        0.0f,
                        row_bias(job, unit, chunk, r),
                        ahead};
    job.kernels.softmax(softmax);
    w.parts[r] = {softmax.maximum, softmax.sum};
  }
  if (job.has_value_codes()) {
    add_values_codes(job, unit, lowest, highest, w);
  } else {
    add_values_plain(job, unit, chunk, w);
  }
  if (ahead != nullptr) ask_across_runs(*ahead, std::numeric_limits<int>::max());  // what is left
}

void pack_queries(const Job& job, const AttentionUnit& unit, int chunk, Workspace& w) {
  if (job.has_key_codes()) return pack_queries_codes(job, unit, chunk, w);
  pack_queries_plain(job, unit, chunk, w);
}

// A unit's chunks in the order of their merge: the sinks, if any, then those that it sees.
int first_chunk(const Job& job, const AttentionUnit& unit) {
  return job.args.sinks > 0 ? kSinkChunk : unit.chunk_begin;
}
int next_chunk(const AttentionUnit& unit, int chunk) {
  return chunk == kSinkChunk ? unit.chunk_begin : chunk + 1;
}

void start_states(const Job& job, int rows, Workspace& w) {
  for (int r = 0; r < rows; ++r) w.states[r] = {-std::numeric_limits<float>::infinity(), 0.0f};
  std::fill(w.values, w.values + static_cast<size_t>(rows) * job.value_stride, 0.0f);
}

void merge_row(const Job& job, int row, const RowState& part, const float* part_values,
               Workspace& w) {
  if (part.sum == 0.0f) return;  // the row sees nothing of this chunk
  job.kernels.merge(w.states[row], w.values + static_cast<size_t>(row) * job.value_stride, part,
                    part_values, static_cast<size_t>(job.view.layout.value_dim));
}

void finish_rows(const Job& job, const AttentionUnit& unit, Workspace& w) {
  const auto dim = static_cast<size_t>(job.view.layout.value_dim);
  for (int r = 0; r < unit_rows(unit); ++r) {
    const RowPlace place = row_place(job, unit, r);
    float* out = job.args.out + place.token * job.args.out_stride + place.head * dim;
    job.kernels.finish(w.states[r], w.values + static_cast<size_t>(r) * job.value_stride, out, dim);
  }
}

void attend_and_merge(const Job& job, const AttentionUnit& unit, int chunk,
                      std::optional<Piece> next, Workspace& w) {
  attend_chunk(job, unit, chunk, next, w);
  for (int r = 0; r < unit_rows(unit); ++r)
    merge_row(job, r, w.parts[r], w.part_values + static_cast<size_t>(r) * job.value_stride, w);
}

// All chunks of some tiles of rows, one chunk after another, merged as they come. `following`: what
// this thread takes after them, if anything.
void attend_rows(const Job& job, std::span<const AttentionUnit> tiles,
                 std::optional<Piece> following, AttentionWorkspaces& ws) {
  int first = tiles[0].chunk_begin, last = tiles[0].chunk_end;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const AttentionUnit& tile = tiles[i];
    Workspace& w = ws.tiles[i];
    first = std::min(first, tile.chunk_begin);
    last = std::max(last, tile.chunk_end);
    start_states(job, unit_rows(tile), w);
    if (job.args.sinks > 0) {
      pack_queries(job, tile, kSinkChunk, w);
      attend_and_merge(job, tile, kSinkChunk, {}, w);
    }
    pack_queries(job, tile, tile.chunk_begin, w);
  }
  for (int chunk = first; chunk < last; ++chunk) {
    for (size_t i = 0; i < tiles.size(); ++i) {
      const AttentionUnit& tile = tiles[i];
      if (chunk < tile.chunk_begin || chunk >= tile.chunk_end) continue;
      const bool is_last = chunk + 1 == tile.chunk_end;
      attend_and_merge(job, tile, chunk,
                       is_last ? following : std::optional(Piece{&tile, chunk + 1}), ws.tiles[i]);
    }
  }
  for (size_t i = 0; i < tiles.size(); ++i) finish_rows(job, tiles[i], ws.tiles[i]);
}

const AttentionUnit& first_of(const AttentionUnit& unit) { return unit; }
const AttentionUnit& first_of(const Run& run) { return run[0]; }

// What the first of a thread's next units reads first.
template <typename Unit>
std::optional<Piece> first_piece(const Unit* next) {
  if (next == nullptr) return std::nullopt;
  return Piece{&first_of(*next), first_of(*next).chunk_begin};
}

// Whether two pieces look with the same queries.
bool have_same_queries(const AttentionUnit& a, const AttentionUnit& b) {
  return a.kind == UnitKind::kSplit && b.kind == UnitKind::kSplit && a.sequence == b.sequence &&
         a.kv_head == b.kv_head && a.row_begin == b.row_begin && a.row_end == b.row_end &&
         (a.chunk_begin == kSinkChunk) == (b.chunk_begin == kSinkChunk);
}

// One chunk of a tile of rows: the partial results go to scratch, [chunk][row] of each row unit.
// `before`: the piece whose queries the workspace has, if any.
void attend_one_chunk(const Job& job, const AttentionUnit& unit, const AttentionUnit* before,
                      const AttentionUnit* following, Workspace& w) {
  if (before == nullptr || !have_same_queries(*before, unit))
    pack_queries(job, unit, unit.chunk_begin, w);
  attend_chunk(job, unit, unit.chunk_begin, first_piece(following), w);
  for (int r = 0; r < unit_rows(unit); ++r) {
    const size_t part = unit.kind == UnitKind::kJoined ? job.joined_rows[unit.row_begin + r].part
                                                       : unit.part + static_cast<size_t>(r);
    const float* values = w.part_values + static_cast<size_t>(r) * job.value_stride;
    job.part_states[part] = w.parts[r];
    std::copy(values, values + job.value_stride, job.part_values + part * job.value_stride);
  }
}

void merge_split_chunks(const Job& job, const AttentionUnit& unit, Workspace& w) {
  const int rows = unit.row_end - unit.row_begin;
  start_states(job, rows, w);
  size_t part = unit.part;
  for (int chunk = first_chunk(job, unit); chunk < unit.chunk_end;
       chunk = next_chunk(unit, chunk)) {
    for (int r = 0; r < rows; ++r, ++part) {
      merge_row(job, r, job.part_states[part], job.part_values + part * job.value_stride, w);
    }
  }
  finish_rows(job, unit, w);
}

// Row units, longest first within a head. Returns the multiply-adds of one head element.
size_t plan_rows(const Job& job, AttentionPlan& plan) {
  plan.rows.clear();
  size_t work = 0;
  const int kv_heads = job.view.layout.kv_heads;
  for (size_t s = 0; s < job.args.sequences; ++s) {
    const int32_t first_row = job.args.query_start[s] * job.group;
    const int32_t last_row = job.args.query_start[s + 1] * job.group;
    for (int h = 0; h < kv_heads; ++h) {
      for (int32_t end = last_row; end > first_row; end = std::max(first_row, end - kRowTile)) {
        AttentionUnit unit{static_cast<int32_t>(s), h, std::max(first_row, end - kRowTile), end,
                           0, 0, 0, UnitKind::kWhole};
        int32_t first = std::numeric_limits<int32_t>::max(), last = 0;
        for (int r = 0; r < unit_rows(unit); ++r) {
          const KeyRange seen = key_range(job.args, unit.sequence, row_place(job, unit, r).token);
          first = std::min(first, seen.begin);
          last = std::max(last, seen.end);
        }
        // Among the sinks there may be nothing else to see.
        unit.chunk_end = (last - 1) / kChunk + 1;
        unit.chunk_begin = std::min(first / kChunk, unit.chunk_end);
        work += static_cast<size_t>(unit_rows(unit)) *
                static_cast<size_t>(std::max(last - first, 0) + job.args.sinks);
        plan.rows.push_back(unit);
      }
    }
  }
  return work;
}

// Runs of at most `most` whole units that read the same keys and values.
void plan_runs(AttentionPlan& plan, size_t most) {
  plan.runs.clear();
  for (size_t begin = 0, end; begin < plan.rows.size(); begin = end) {
    const AttentionUnit& unit = plan.rows[begin];
    end = begin + 1;
    if (unit.kind != UnitKind::kWhole) continue;
    while (end < plan.rows.size() && end - begin < most &&
           plan.rows[end].sequence == unit.sequence && plan.rows[end].kv_head == unit.kv_head) {
      ++end;
    }
    plan.runs.push_back({&unit, end - begin});
  }
}

// Splits every row unit into its chunks. Returns the number of partial results.
size_t plan_chunks(const Job& job, AttentionPlan& plan) {
  size_t parts = 0;
  for (AttentionUnit& unit : plan.rows) {
    unit.kind = UnitKind::kSplit;
    unit.part = parts;
    if (job.args.sinks > 0) {
      AttentionUnit sinks = unit;
      sinks.chunk_begin = kSinkChunk;
      sinks.chunk_end = kSinkChunk + 1;
      plan.pieces.push_back(sinks);
      unit.part += static_cast<size_t>(unit_rows(unit));
    }
    split_unit(unit, unit.chunk_begin, plan);
    parts = unit.part + unit_parts(unit);
    if (job.args.sinks > 0) unit.part -= static_cast<size_t>(unit_rows(unit));
    plan.merges.push_back(unit);
  }
  return parts;
}

bool has_several_chunks(const Job& job, const AttentionPlan& plan) {
  return job.args.sinks > 0 ||
         std::any_of(plan.rows.begin(), plan.rows.end(), [](const AttentionUnit& unit) {
           return unit.chunk_end - unit.chunk_begin > 1;
         });
}

// Threads take units, or runs of them, in order from a shared counter: they differ in length. Where
// rows are few, each takes its next before it works on one, so that what that reads can be asked
// for. work(before, unit, following), both null where there is none or it is not known yet.
template <typename Unit, typename Work>
void for_each_unit(const std::vector<Unit>& units, std::atomic<size_t>& counter, const Work& work) {
  const auto take = [&]() -> const Unit* {
    const size_t i = counter.fetch_add(1, std::memory_order_relaxed);
    return i < units.size() ? &units[i] : nullptr;
  };
  const Unit* before = nullptr;
  for (const Unit* unit = take(); unit != nullptr;) {
    const Unit* following = unit_rows(first_of(*unit)) <= kFewRows ? take() : nullptr;
    work(before, *unit, following);
    before = unit;
    unit = following != nullptr ? following : take();
  }
}

size_t key_units(const KvLayerLayout& layout) {
  const auto dim = static_cast<uint64_t>(layout.key_dim);
  switch (layout.key_format) {
    case KvFormat::kF32: return dim;
    case KvFormat::kBF16: return ceil_div(dim, 2);
    case KvFormat::kInt8:
    case KvFormat::kInt4: return ceil_div(dim, 4);
  }
  QUIPU_CHECK(false, "format {}", static_cast<int>(layout.key_format));
}

}  // namespace

namespace {

// Takes the parts of a workspace one after another, each aligned to 64 bytes.
class Parts {
 public:
  explicit Parts(std::byte* memory) : memory_(memory) {}
  template <typename T>
  void take(T*& part, size_t count) {
    if (memory_ != nullptr) part = reinterpret_cast<T*>(memory_ + used_);
    used_ += round_up(count * sizeof(T), 64);
  }
  size_t used() const { return used_; }

 private:
  std::byte* memory_;
  size_t used_ = 0;
};

size_t lay_out(const AttentionJob& job, size_t tiles, AttentionWorkspaces& ws, std::byte* memory) {
  Parts parts(memory);
  const auto key_dim = static_cast<size_t>(job.view.layout.key_dim);
  AttentionWorkspace& w = ws.tiles[0];
  parts.take(w.scores, kRowTile * kChunk);
  parts.take(w.part_values, kRowTile * job.value_stride);
  if (job.has_value_codes()) parts.take(w.scaled, std::max<size_t>(kChunk, key_dim));
  if (job.has_int4_values()) {
    parts.take(w.weight_bytes, kRowTile * kChunk / 4);
    parts.take(w.weight_scales, kRowTile * kChunk / kWeightGroup);
  } else if (job.has_value_codes()) {
    parts.take(w.weights, kRowTile * kChunk / 4);
    parts.take(w.sums, kRowTile * job.value_stride);
  }
  if (job.has_int4_keys()) {
    parts.take(w.mean_tiles, kChunk / (kLanes * kLanes) * job.key_units * 4 * kLanes);
    parts.take(w.base, kRowTile * kChunk / kLanes);
  }
  for (size_t i = 0; i < tiles; ++i) {
    AttentionWorkspace& tile = ws.tiles[i];
    tile = w;
    parts.take(tile.q, kRowTile * job.key_units);
    parts.take(tile.values, kRowTile * job.value_stride);
    if (!job.has_int4_keys()) continue;
    parts.take(tile.q_bytes, kRowTile * job.key_units);
    parts.take(tile.q_sums, kRowTile * ceil_div(key_dim, kKeyGroup));
  }
  return parts.used();
}

}  // namespace

size_t workspace_bytes(const AttentionJob& job, size_t tiles) {
  AttentionWorkspaces none{};
  return lay_out(job, tiles, none, nullptr);
}

AttentionWorkspaces make_workspaces(const AttentionJob& job, size_t tiles, std::byte* memory) {
  AttentionWorkspaces ws{};
  lay_out(job, tiles, ws, memory);
  return ws;
}

void run_attention(const AttentionArgs& args, const KernelTable& kernels, const CodeKernels& codes,
                   ThreadPool& pool, Scratch& scratch, AttentionPlan& plan) {
  if (args.tokens == 0) return;
  QUIPU_CHECK(args.layer >= 0 && args.layer < args.kv.num_layers, "layer {}", args.layer);
  const KvLayerView& view = args.kv.layers[args.layer];
  const KvLayerLayout& layout = view.layout;
  const auto kv_heads = static_cast<size_t>(layout.kv_heads);
  QUIPU_CHECK(args.heads % kv_heads == 0, "{} heads, {} kv heads", args.heads, kv_heads);
  QUIPU_CHECK(kChunk % layout.block_tokens == 0, "block of {} tokens", layout.block_tokens);
  QUIPU_CHECK(args.sinks >= 0 && args.sinks <= kChunk && (args.sinks == 0 || args.window > 0),
              "{} sinks, a window of {}", args.sinks, args.window);
  Job job{args,
          kernels,
          codes,
          view,
          static_cast<int>(args.heads / kv_heads),
          key_units(layout),
          round_up(static_cast<uint64_t>(layout.value_dim), kLanes),
          std::countr_zero(static_cast<uint64_t>(layout.value_run_tokens))};
  const size_t work = plan_rows(job, plan) * static_cast<size_t>(layout.key_dim + layout.value_dim);
  const auto threads = static_cast<size_t>(pool.threads());
  // Four runs for each thread, so that none waits long for the last.
  const size_t together = std::clamp<size_t>(plan.rows.size() / (4 * threads), 1, kTilesTogether);
  const size_t workspace = workspace_bytes(job, together);

  plan.pieces.clear();
  plan.merges.clear();
  size_t parts = plan_joins(job, plan);
  const bool alone = parts == 0 && (threads == 1 || work < kAloneWork);
  const bool split =
      parts == 0 && !alone && plan.rows.size() < 4 * threads && has_several_chunks(job, plan);
  if (split) parts = plan_chunks(job, plan);
  plan_runs(plan, together);
  if (alone) {
    AttentionWorkspaces ws =
        make_workspaces(job, together, scratch.per_thread[0].reserve(workspace));
    for (size_t i = 0; i < plan.runs.size(); ++i) {
      const bool is_last = i + 1 == plan.runs.size();
      attend_rows(job, plan.runs[i], first_piece(is_last ? nullptr : &plan.runs[i + 1]), ws);
    }
    return;
  }
  scratch.reserve_per_thread(workspace);
  if (parts > 0) {
    const size_t value_bytes = parts * job.value_stride * sizeof(float);
    std::byte* memory = scratch.shared.reserve(value_bytes + parts * sizeof(RowState));
    job.part_values = reinterpret_cast<float*>(memory);
    job.part_states = reinterpret_cast<RowState*>(memory + value_bytes);
    job.joined_rows = plan.joined_rows.data();
  }
  std::atomic<size_t> next_run{0}, next_piece{0}, next_merge{0};
  pool.run([&](int thread, int) {
    AttentionWorkspaces ws = make_workspaces(
        job, together, scratch.per_thread[static_cast<size_t>(thread)].reserve(workspace));
    for_each_unit(plan.runs, next_run, [&](const Run*, const Run& run, const Run* following) {
      attend_rows(job, run, first_piece(following), ws);
    });
    if (parts == 0) return;
    using Unit = AttentionUnit;
    for_each_unit(plan.pieces, next_piece,
                  [&](const Unit* before, const Unit& unit, const Unit* following) {
                    attend_one_chunk(job, unit, before, following, ws.tiles[0]);
                  });
    pool.barrier();
    for_each_unit(plan.merges, next_merge, [&](const Unit*, const Unit& unit, const Unit*) {
      merge_split_chunks(job, unit, ws.tiles[0]);
    });
  });
}

}  // namespace quipu::cpu
