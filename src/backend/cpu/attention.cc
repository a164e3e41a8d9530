#include "backend/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "backend/cpu/attention_join.h"
#include "backend/cpu/attention_rows.h"
#include "base/check.h"
#include "base/units.h"

namespace quipu::cpu {

namespace {

using Job = AttentionJob;
using Workspace = AttentionWorkspace;

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

// Partial results of every row of the unit for one chunk: w.parts and w.part_values. A row that
// sees nothing has sum 0.
void attend_chunk(const Job& job, const AttentionUnit& unit, int chunk, Workspace& w) {
  const int rows = unit.row_end - unit.row_begin;
  find_ranges(job, unit, chunk, w);
  int lowest = kChunk, highest = 0;
  for (int r = 0; r < rows; ++r) {
    w.parts[r] = {-std::numeric_limits<float>::infinity(), 0.0f};
    if (w.begin[r] == w.end[r]) continue;
    lowest = std::min(lowest, w.begin[r]);
    highest = std::max(highest, w.end[r]);
  }
  if (lowest >= highest) return;
  if (job.has_key_codes()) {
    compute_scores_codes(job, unit, chunk, lowest, highest, w);
  } else {
    compute_scores_plain(job, unit, chunk, lowest, highest, w);
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
                        row_bias(job, unit, chunk, r)};
    job.kernels.softmax(softmax);
    w.parts[r] = {softmax.maximum, softmax.sum};
  }
  if (job.has_value_codes()) {
    add_values_codes(job, unit, chunk, lowest, highest, w);
  } else {
    add_values_plain(job, unit, chunk, w);
  }
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

void attend_and_merge(const Job& job, const AttentionUnit& unit, int chunk, Workspace& w) {
  attend_chunk(job, unit, chunk, w);
  for (int r = 0; r < unit_rows(unit); ++r)
    merge_row(job, r, w.parts[r], w.part_values + static_cast<size_t>(r) * job.value_stride, w);
}

// All chunks of a tile of rows, merged as they come.
void attend_rows(const Job& job, const AttentionUnit& unit, Workspace& w) {
  start_states(job, unit_rows(unit), w);
  if (job.args.sinks > 0) {
    pack_queries(job, unit, kSinkChunk, w);
    attend_and_merge(job, unit, kSinkChunk, w);
  }
  pack_queries(job, unit, unit.chunk_begin, w);
  for (int chunk = unit.chunk_begin; chunk < unit.chunk_end; ++chunk)
    attend_and_merge(job, unit, chunk, w);
  finish_rows(job, unit, w);
}

// One chunk of a tile of rows: the partial results go to scratch, [chunk][row] of each row unit.
void attend_one_chunk(const Job& job, const AttentionUnit& unit, Workspace& w) {
  pack_queries(job, unit, unit.chunk_begin, w);
  attend_chunk(job, unit, unit.chunk_begin, w);
  for (int r = 0; r < unit_rows(unit); ++r) {
    const size_t part = unit.kind == UnitKind::kJoined ? job.joined_rows[unit.row_begin + r].part
                                                       : unit.part + static_cast<size_t>(r);
    const float* values = w.part_values + static_cast<size_t>(r) * job.value_stride;
    job.part_states[part] = w.parts[r];
    std::copy(values, values + job.value_stride, job.part_values + part * job.value_stride);
  }
}

void attend_piece(const Job& job, const AttentionUnit& unit, Workspace& w) {
  if (unit.kind == UnitKind::kWhole) return attend_rows(job, unit, w);
  attend_one_chunk(job, unit, w);
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

// Splits every row unit into its chunks. Returns the number of partial results.
size_t plan_chunks(const Job& job, AttentionPlan& plan) {
  size_t parts = 0;
  for (AttentionUnit& unit : plan.rows) {
    unit.part = parts;
    if (job.args.sinks > 0) {
      AttentionUnit sinks = unit;
      sinks.kind = UnitKind::kSplit;
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

// Threads take units in order from a shared counter: units differ in length.
template <typename Work>
void for_each_unit(const std::vector<AttentionUnit>& units, std::atomic<size_t>& next,
                   const Work& work) {
  for (;;) {
    const size_t i = next.fetch_add(1, std::memory_order_relaxed);
    if (i >= units.size()) return;
    work(units[i]);
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

size_t lay_out_workspace(const AttentionJob& job, AttentionWorkspace& w, std::byte* memory) {
  Parts parts(memory);
  parts.take(w.scores, kRowTile * kChunk);
  parts.take(w.part_values, kRowTile * job.value_stride);
  parts.take(w.values, kRowTile * job.value_stride);
  parts.take(w.q, kRowTile * job.key_units);
  if (!job.has_value_codes()) return parts.used();
  const auto key_dim = static_cast<size_t>(job.view.layout.key_dim);
  parts.take(w.scaled, std::max<size_t>(kChunk, key_dim));
  if (job.has_int4_values()) {
    parts.take(w.weight_bytes, kRowTile * kChunk / 4);
    parts.take(w.weight_scales, kRowTile * kChunk / kWeightGroup);
  } else {
    parts.take(w.weights, kRowTile * kChunk / 4);
    parts.take(w.sums, kRowTile * job.value_stride);
  }
  if (!job.has_int4_keys()) return parts.used();
  parts.take(w.q_bytes, kRowTile * job.key_units);
  parts.take(w.q_sums, kRowTile * ceil_div(key_dim, kKeyGroup));
  parts.take(w.mean_tiles, kChunk / (kLanes * kLanes) * job.key_units * 4 * kLanes);
  parts.take(w.base, kRowTile * kChunk / kLanes);
  return parts.used();
}

}  // namespace

size_t workspace_bytes(const AttentionJob& job) {
  AttentionWorkspace none;
  return lay_out_workspace(job, none, nullptr);
}

AttentionWorkspace make_workspace(const AttentionJob& job, std::byte* memory) {
  AttentionWorkspace w;
  lay_out_workspace(job, w, memory);
  return w;
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
          round_up(static_cast<uint64_t>(layout.value_dim), kLanes)};
  const size_t work = plan_rows(job, plan) * static_cast<size_t>(layout.key_dim + layout.value_dim);
  const size_t workspace = workspace_bytes(job);
  const auto threads = static_cast<size_t>(pool.threads());

  plan.pieces.clear();
  plan.merges.clear();
  size_t parts = plan_joins(job, plan);
  const bool alone = threads == 1 || work < kAloneWork;
  if (parts == 0 && alone) {
    Workspace w = make_workspace(job, scratch.per_thread[0].reserve(workspace));
    for (const AttentionUnit& unit : plan.rows) attend_rows(job, unit, w);
    return;
  }
  scratch.reserve_per_thread(workspace);
  const bool split = plan.rows.size() < 4 * threads && has_several_chunks(job, plan);
  if (parts == 0 && split) parts = plan_chunks(job, plan);
  if (parts > 0) {
    const size_t value_bytes = parts * job.value_stride * sizeof(float);
    std::byte* memory = scratch.shared.reserve(value_bytes + parts * sizeof(RowState));
    job.part_values = reinterpret_cast<float*>(memory);
    job.part_states = reinterpret_cast<RowState*>(memory + value_bytes);
    job.joined_rows = plan.joined_rows.data();
  }
  std::atomic<size_t> next{0}, next_merge{0};
  pool.run([&](int thread, int) {
    Workspace w = make_workspace(
        job, scratch.per_thread[static_cast<size_t>(thread)].reserve(workspace));
    if (parts == 0) {
      for_each_unit(plan.rows, next, [&](const AttentionUnit& unit) { attend_rows(job, unit, w); });
      return;
    }
    for_each_unit(plan.pieces, next,
                  [&](const AttentionUnit& unit) { attend_piece(job, unit, w); });
    pool.barrier();
    for_each_unit(plan.merges, next_merge,
                  [&](const AttentionUnit& unit) { merge_split_chunks(job, unit, w); });
  });
}

}  // namespace quipu::cpu
