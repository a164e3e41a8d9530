#include "backend/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "base/check.h"
#include "base/units.h"

namespace quipu::cpu {

namespace {

constexpr int kChunk = kAttentionChunk;
constexpr int kSinkChunk = -1;
constexpr int kRowTile = 32;
static_assert(kLanes == kKvTileTokens);
// Up to this many rows a chunk is bound by reading it: then each call asks for what comes this many
// positions later.
constexpr int kFewRows = 8;
constexpr int kAhead = 64;
// Below this many multiply-adds the caller computes alone.
constexpr size_t kAloneWork = 32 * kKiB;

// What a job reads: the arguments and what follows from them.
struct Job {
  const AttentionArgs& args;
  const KernelTable& kernels;
  const KvLayerView& view;
  int group;                        // query heads per KV head
  size_t key_units;                 // DotArgs::k of a key tile
  size_t value_stride;              // value_dim rounded up to whole vectors
  RowState* part_states = nullptr;  // split chunks
  float* part_values = nullptr;
};

// One thread's working memory for one tile of rows.
struct Workspace {
  uint32_t* q;         // [key_units][rows] f32 or bf16 pairs
  float* scores;       // [kRowTile][kChunk]
  float* part_values;  // [kRowTile][value_stride]
  float* values;       // [kRowTile][value_stride]
  RowState parts[kRowTile];
  RowState states[kRowTile];
  int begin[kRowTile], end[kRowTile];  // positions of the chunk that each row sees
};

size_t workspace_floats(const Job& job) {
  return kRowTile * (job.key_units + kChunk + 2 * job.value_stride);
}

Workspace make_workspace(const Job& job, std::byte* memory) {
  Workspace w;
  auto* floats = reinterpret_cast<float*>(memory);
  w.scores = floats;
  w.part_values = w.scores + kRowTile * kChunk;
  w.values = w.part_values + kRowTile * job.value_stride;
  w.q = reinterpret_cast<uint32_t*>(w.values + kRowTile * job.value_stride);
  return w;
}

int32_t row_token(const Job& job, const AttentionUnit& unit, int32_t row) {
  return job.args.query_start[unit.sequence] + row / job.group;
}

const uint8_t* head_data(const Job& job, const AttentionUnit& unit, int32_t position) {
  const PagedKvView& kv = job.args.kv;
  const int32_t* table =
      job.args.block_tables + static_cast<size_t>(unit.sequence) * job.args.block_table_stride;
  int32_t column = position / kv.block_tokens;
  if (job.args.block_gaps != nullptr && column * kv.block_tokens >= job.args.sinks)
    column -= job.args.block_gaps[unit.sequence];
  const auto block = static_cast<size_t>(table[column]);
  return reinterpret_cast<const uint8_t*>(kv.base) + block * kv.block_bytes +
         job.view.offset_in_block + static_cast<size_t>(unit.kv_head) * job.view.layout.head_bytes;
}

const uint8_t* key_tile(const Job& job, const AttentionUnit& unit, int32_t position) {
  const KvLayerLayout& layout = job.view.layout;
  const auto tile = static_cast<size_t>(position % layout.block_tokens / kLanes);
  return head_data(job, unit, position) + tile * layout.key_tile_bytes;
}

const uint8_t* value_row(const Job& job, const AttentionUnit& unit, int32_t position) {
  const KvLayerLayout& layout = job.view.layout;
  const auto offset = static_cast<size_t>(position % layout.block_tokens);
  return head_data(job, unit, position) + layout.value_offset + offset * layout.value_row_bytes;
}

// The first position of a chunk; the sinks begin where chunk 0 does.
int32_t chunk_start(int chunk) { return std::max(chunk, 0) * kChunk; }

// Packs the unit's queries, or those for the sinks.
void pack_queries(const Job& job, const AttentionUnit& unit, int chunk, Workspace& w) {
  const float* queries = chunk == kSinkChunk ? job.args.q_sinks : job.args.q;
  const size_t stride = chunk == kSinkChunk ? job.args.q_sinks_stride : job.args.q_stride;
  const auto rows = static_cast<size_t>(unit.row_end - unit.row_begin);
  const auto dim = static_cast<size_t>(job.view.layout.key_dim);
  for (size_t r = 0; r < rows; ++r) {
    const int32_t row = unit.row_begin + static_cast<int32_t>(r);
    const auto head = static_cast<size_t>(unit.kv_head * job.group + row % job.group);
    const float* q = queries + static_cast<size_t>(row_token(job, unit, row)) * stride + head * dim;
    if (job.view.layout.format == KvFormat::kF32) {
      job.kernels.pack_f32(q, dim, reinterpret_cast<float*>(w.q) + r, rows);
    } else {
      job.kernels.pack_bf16(q, dim, w.q + r, rows);
    }
  }
}

// The first position past the sinks that the token at `position` sees.
int32_t first_seen(const Job& job, int32_t position) {
  if (job.args.window == 0) return 0;
  return std::max(job.args.sinks, position - job.args.window + 1);
}

// What each row sees of the chunk, relative to its start; begin == end where it sees nothing.
void find_ranges(const Job& job, const AttentionUnit& unit, int chunk, Workspace& w) {
  const int32_t start = chunk_start(chunk);
  for (int32_t row = unit.row_begin; row < unit.row_end; ++row) {
    const int32_t position = job.args.positions[row_token(job, unit, row)];
    const bool to_sinks = chunk == kSinkChunk;
    const int32_t first = to_sinks ? 0 : first_seen(job, position);
    const int32_t last = to_sinks ? std::min(position, job.args.sinks - 1) : position;
    const int begin = std::clamp(first - start, 0, kChunk);
    const int end = std::clamp(last + 1 - start, 0, kChunk);
    w.begin[row - unit.row_begin] = std::min(begin, end);
    w.end[row - unit.row_begin] = end;
  }
}

// What a chunk reads kAhead positions after the keys at t: later keys, then its first values.
const uint8_t* after_keys(const Job& job, const AttentionUnit& unit, int chunk, int t, int lowest,
                          int highest) {
  const int next = t + kAhead;
  if (next < highest) return key_tile(job, unit, chunk_start(chunk) + next);
  const int value = std::min(lowest + next - highest, highest - 1);
  return value_row(job, unit, chunk_start(chunk) + value);
}

// The same for values: later values, then the first keys of the unit's next chunk.
const uint8_t* after_values(const Job& job, const AttentionUnit& unit, int chunk, int from,
                            int to) {
  const int next = from + kAhead;
  if (next < to) return value_row(job, unit, chunk_start(chunk) + next);
  if (chunk == kSinkChunk || chunk + 1 == unit.chunk_end)
    return value_row(job, unit, chunk_start(chunk) + from);
  return key_tile(job, unit, (chunk + 1) * kChunk);
}

// Scores of every row against the key tiles that any of them sees.
void compute_scores(const Job& job, const AttentionUnit& unit, int chunk, int lowest, int highest,
                    Workspace& w) {
  const int rows = unit.row_end - unit.row_begin;
  const Pack pack = job.view.layout.format == KvFormat::kF32 ? Pack::kF32 : Pack::kBf16;
  const DotFn dot = job.kernels.dot[static_cast<int>(pack)];
  const bool few = rows <= kFewRows;
  const int block_tokens = job.view.layout.block_tokens;
  int t = lowest / kLanes * kLanes;
  while (t < highest) {
    const uint8_t* tiles[kTileGroup];
    const uint8_t* ahead = few ? after_keys(job, unit, chunk, t, lowest, highest) : nullptr;
    const int from = t;
    // Few rows: two tiles of one block, so that what lies ahead is one run of memory.
    const int together = few ? std::min(2, (block_tokens - t % block_tokens) / kLanes) : kTileGroup;
    int count = 0;
    for (; count < together && t < highest; ++count, t += kLanes) {
      tiles[count] = key_tile(job, unit, chunk_start(chunk) + t);
    }
    dot({tiles, count, job.key_units, w.q, static_cast<size_t>(rows), rows, w.scores + from, kChunk,
         0, ahead});
  }
}

// Adds tokens [from, to) of the chunk to the values of rows [first, last).
void add_values(const Job& job, const AttentionUnit& unit, int chunk, int first, int last, int from,
                int to, Workspace& w) {
  const KvLayerLayout& layout = job.view.layout;
  const auto kernel =
      layout.format == KvFormat::kF32 ? job.kernels.values_f32 : job.kernels.values_bf16;
  const bool few = unit.row_end - unit.row_begin <= kFewRows;
  while (from < to) {
    const int32_t position = chunk_start(chunk) + from;
    const int tokens = std::min(to - from, layout.block_tokens - position % layout.block_tokens);
    kernel({w.scores + first * kChunk + from, kChunk, value_row(job, unit, position),
            layout.value_row_bytes, w.part_values + static_cast<size_t>(first) * job.value_stride,
            job.value_stride, last - first, tokens, layout.value_dim,
            few ? after_values(job, unit, chunk, from, to) : nullptr});
    from += tokens;
  }
}

// Weighted values of a run of rows: what all of them see together, the rest row by row. Each row
// adds its tokens in order, from its first to its last.
void add_values_of_run(const Job& job, const AttentionUnit& unit, int chunk, int first, int last,
                       Workspace& w) {
  int common_begin = 0, common_end = kChunk;
  for (int r = first; r < last; ++r) {
    common_begin = std::max(common_begin, w.begin[r]);
    common_end = std::min(common_end, w.end[r]);
  }
  const bool common = common_begin < common_end;
  for (int r = first; r < last; ++r) {
    add_values(job, unit, chunk, r, r + 1, w.begin[r], common ? common_begin : w.end[r], w);
  }
  if (!common) return;
  add_values(job, unit, chunk, first, last, common_begin, common_end, w);
  for (int r = first; r < last; ++r) {
    add_values(job, unit, chunk, r, r + 1, common_end, w.end[r], w);
  }
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
  compute_scores(job, unit, chunk, lowest, highest, w);
  for (int r = 0; r < rows; ++r) {
    if (w.begin[r] == w.end[r]) continue;
    SoftmaxArgs softmax{w.scores + r * kChunk, w.begin[r], w.end[r], job.args.scale,
                        job.args.softcap,      0.0f,       0.0f};
    job.kernels.softmax(softmax);
    w.parts[r] = {softmax.maximum, softmax.sum};
  }
  std::fill(w.part_values, w.part_values + static_cast<size_t>(rows) * job.value_stride, 0.0f);
  for (int r = 0; r < rows;) {
    if (w.begin[r] == w.end[r]) {
      ++r;
      continue;
    }
    int last = r + 1;
    while (last < rows && w.begin[last] != w.end[last]) ++last;
    add_values_of_run(job, unit, chunk, r, last, w);
    r = last;
  }
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
  for (int32_t row = unit.row_begin; row < unit.row_end; ++row) {
    const int r = row - unit.row_begin;
    const auto head = static_cast<size_t>(unit.kv_head * job.group + row % job.group);
    float* out = job.args.out +
                 static_cast<size_t>(row_token(job, unit, row)) * job.args.out_stride + head * dim;
    job.kernels.finish(w.states[r], w.values + static_cast<size_t>(r) * job.value_stride, out, dim);
  }
}

void attend_and_merge(const Job& job, const AttentionUnit& unit, int chunk, Workspace& w) {
  const int rows = unit.row_end - unit.row_begin;
  attend_chunk(job, unit, chunk, w);
  for (int r = 0; r < rows; ++r)
    merge_row(job, r, w.parts[r], w.part_values + static_cast<size_t>(r) * job.value_stride, w);
}

// All chunks of a tile of rows, merged as they come.
void attend_rows(const Job& job, const AttentionUnit& unit, Workspace& w) {
  start_states(job, unit.row_end - unit.row_begin, w);
  if (job.args.sinks > 0) {
    pack_queries(job, unit, kSinkChunk, w);
    attend_and_merge(job, unit, kSinkChunk, w);
  }
  pack_queries(job, unit, unit.chunk_begin, w);
  for (int chunk = unit.chunk_begin; chunk < unit.chunk_end; ++chunk)
    attend_and_merge(job, unit, chunk, w);
  finish_rows(job, unit, w);
}

// One chunk of a tile of rows: the partial results go to scratch, [chunk][row].
void attend_split_chunk(const Job& job, const AttentionUnit& unit, Workspace& w) {
  const int rows = unit.row_end - unit.row_begin;
  pack_queries(job, unit, unit.chunk_begin, w);
  attend_chunk(job, unit, unit.chunk_begin, w);
  std::copy(w.parts, w.parts + rows, job.part_states + unit.part);
  std::copy(w.part_values, w.part_values + static_cast<size_t>(rows) * job.value_stride,
            job.part_values + unit.part * job.value_stride);
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
  plan.chunks.clear();
  size_t work = 0;
  const int kv_heads = job.view.layout.kv_heads;
  for (size_t s = 0; s < job.args.sequences; ++s) {
    const int32_t tokens = job.args.query_start[s + 1] - job.args.query_start[s];
    const int32_t rows = tokens * job.group;
    for (int h = 0; h < kv_heads; ++h) {
      for (int32_t end = rows; end > 0; end -= std::min(end, kRowTile)) {
        AttentionUnit unit{static_cast<int32_t>(s), h, std::max(0, end - kRowTile), end, 0, 0, 0};
        int32_t lowest = std::numeric_limits<int32_t>::max(), highest = 0;
        for (int32_t row = unit.row_begin; row < end; row += 1) {
          const int32_t position = job.args.positions[row_token(job, unit, row)];
          lowest = std::min(lowest, position);
          highest = std::max(highest, position);
        }
        const int32_t first = first_seen(job, lowest);
        unit.chunk_end = highest / kChunk + 1;
        unit.chunk_begin = std::min(first / kChunk, unit.chunk_end);
        work += static_cast<size_t>(end - unit.row_begin) *
                static_cast<size_t>(std::max(highest + 1 - first, 0) + job.args.sinks);
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
    const auto rows = static_cast<size_t>(unit.row_end - unit.row_begin);
    unit.part = parts;
    for (int chunk = first_chunk(job, unit); chunk < unit.chunk_end;
         chunk = next_chunk(unit, chunk), parts += rows) {
      AttentionUnit piece = unit;
      piece.chunk_begin = chunk;
      piece.chunk_end = chunk + 1;
      piece.part = parts;
      plan.chunks.push_back(piece);
    }
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

}  // namespace

void run_attention(const AttentionArgs& args, const KernelTable& kernels, ThreadPool& pool,
                   Scratch& scratch, AttentionPlan& plan) {
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
          view,
          static_cast<int>(args.heads / kv_heads),
          layout.format == KvFormat::kF32 ? static_cast<size_t>(layout.key_dim)
                                          : ceil_div(static_cast<uint64_t>(layout.key_dim), 2),
          round_up(static_cast<uint64_t>(layout.value_dim), kLanes)};
  const size_t work = plan_rows(job, plan) * static_cast<size_t>(layout.key_dim + layout.value_dim);
  const size_t workspace_bytes = workspace_floats(job) * sizeof(float);
  const auto threads = static_cast<size_t>(pool.threads());

  if (threads == 1 || work < kAloneWork) {
    Workspace w = make_workspace(job, scratch.per_thread[0].reserve(workspace_bytes));
    for (const AttentionUnit& unit : plan.rows) attend_rows(job, unit, w);
    return;
  }
  scratch.reserve_per_thread(workspace_bytes);
  const bool split = plan.rows.size() < 4 * threads && has_several_chunks(job, plan);
  if (split) {
    const size_t parts = plan_chunks(job, plan);
    const size_t value_bytes = parts * job.value_stride * sizeof(float);
    std::byte* memory = scratch.shared.reserve(value_bytes + parts * sizeof(RowState));
    job.part_values = reinterpret_cast<float*>(memory);
    job.part_states = reinterpret_cast<RowState*>(memory + value_bytes);
  }
  std::atomic<size_t> next{0}, next_merge{0};
  pool.run([&](int thread, int) {
    Workspace w = make_workspace(
        job, scratch.per_thread[static_cast<size_t>(thread)].reserve(workspace_bytes));
    if (!split) {
      for_each_unit(plan.rows, next, [&](const AttentionUnit& unit) { attend_rows(job, unit, w); });
      return;
    }
    for_each_unit(plan.chunks, next,
                  [&](const AttentionUnit& unit) { attend_split_chunk(job, unit, w); });
    pool.barrier();
    for_each_unit(plan.rows, next_merge,
                  [&](const AttentionUnit& unit) { merge_split_chunks(job, unit, w); });
  });
}

}  // namespace quipu::cpu
