// Attention over keys and values that are stored as floats.
#include <algorithm>

#include "backend/cpu/attention_rows.h"

namespace quipu::cpu {

void pack_queries_plain(const AttentionJob& job, const AttentionUnit& unit, int chunk,
                        AttentionWorkspace& w) {
  const auto rows = static_cast<size_t>(unit_rows(unit));
  const auto dim = static_cast<size_t>(job.view.layout.key_dim);
  for (size_t r = 0; r < rows; ++r) {
    const float* q = row_query(job, unit, chunk, static_cast<int>(r));
    if (job.view.layout.key_format == KvFormat::kF32) {
      job.kernels.pack_f32(q, dim, reinterpret_cast<float*>(w.q) + r, rows);
    } else {
      job.kernels.pack_bf16(q, dim, reinterpret_cast<uint32_t*>(w.q) + r, rows);
    }
    w.q_scale[r] = 1.0f;
  }
}

namespace {

// Few rows: keys and values are asked for this long before they are read, line by line as what is
// read now; about 16 KiB of bf16 keys, as less does not cover the latency of memory. (Asking for a
// whole chunk ahead, as codes do, was measured slower.)
constexpr int kAheadTokens = 64;

// What a chunk reads that long after the keys at t: later keys, then its first values.
const uint8_t* after_keys(const AttentionJob& job, const AttentionWorkspace& w, int t, int lowest,
                          int highest) {
  const int next = t + kAheadTokens;
  if (next < highest) return key_tile(job, w, next);
  return value_data(job, w, std::min(lowest + next - highest, highest - 1));
}

// The same for values: later values, then the first keys of the unit's next chunk.
const uint8_t* after_values(const AttentionJob& job, const AttentionUnit& unit, int chunk, int from,
                            int to, const AttentionWorkspace& w) {
  const int next = from + kAheadTokens;
  if (next < to) return value_data(job, w, next);
  if (chunk == kSinkChunk || chunk + 1 == unit.chunk_end) return value_data(job, w, from);
  const int32_t key =
      std::min((chunk + 1) * kChunk + (next - to) / kLanes * kLanes, last_position(job, unit));
  const KvLayerLayout& layout = job.view.layout;
  const auto tile = static_cast<size_t>(key % layout.block_tokens / kLanes);
  return head_data(job, unit, key) + tile * layout.key_tile_bytes;
}

}  // namespace

void compute_scores_plain(const AttentionJob& job, const AttentionUnit& unit, int lowest,
                          int highest, AttentionWorkspace& w) {
  const int rows = unit_rows(unit);
  const Pack pack = job.view.layout.key_format == KvFormat::kF32 ? Pack::kF32 : Pack::kBf16;
  const DotFn dot = job.kernels.dot[static_cast<int>(pack)];
  const bool few = rows <= kFewRows;
  int t = lowest / kLanes * kLanes;
  while (t < highest) {
    const uint8_t* tiles[kTileGroup];
    const uint8_t* ahead = few ? after_keys(job, w, t, lowest, highest) : nullptr;
    const int from = t;
    // Few rows: two tiles of one block, so that what lies ahead is one run of memory.
    const int together = few ? std::min(2, run_in_block(job, t, kChunk) / kLanes) : kTileGroup;
    int count = 0;
    for (; count < together && t < highest; ++count, t += kLanes) {
      tiles[count] = key_tile(job, w, t);
    }
    dot({tiles, count, job.key_units, w.q, static_cast<size_t>(rows), rows, w.scores + from, kChunk,
         ZeroPoint::k8, ahead});
  }
}

namespace {

// Weights of rows of the tile, run by run of tokens: words of 4 bytes, in place of the scores. (A
// run of f32 is a token; in bf16 the two weights of a pair are one word.)
void round_weights(const AttentionJob& job, int rows, AttentionWorkspace& w) {
  if (job.view.layout.format == KvFormat::kF32) return;
  for (int r = 0; r < rows; ++r) {
    const int from = w.begin[r] / kLanes * kLanes;
    if (w.begin[r] == w.end[r]) continue;
    float* weights = w.scores + r * kChunk;
    job.kernels.to_bf16(weights + from, reinterpret_cast<uint16_t*>(weights) + from,
                        round_up(static_cast<uint64_t>(w.end[r] - from), kLanes));
  }
}

// Adds tokens [from, to) of the chunk to the values of rows [first, last): whole runs, or a part of
// one.
void add_tokens(const AttentionJob& job, const AttentionUnit& unit, int chunk, int first, int last,
                int from, int to, AttentionWorkspace& w) {
  const KvLayerLayout& layout = job.view.layout;
  const auto run_tokens = static_cast<int>(layout.value_run_tokens);
  const bool pairs = layout.format == KvFormat::kBF16;
  const auto kernel = pairs ? job.kernels.values_bf16 : job.kernels.values_f32;
  const bool few = unit_rows(unit) <= kFewRows;
  while (from < to) {
    int tokens = run_in_block(job, from, to);
    uint32_t mask = kAllTokens;
    if (pairs && (from % 2 != 0 || tokens == 1)) {
      mask = from % 2 != 0 ? 0xFFFF0000 : 0x0000FFFF;
      tokens = 1;
    } else {
      tokens = tokens / run_tokens * run_tokens;
    }
    kernel({w.scores + first * kChunk + from / run_tokens, kChunk, value_data(job, w, from),
            layout.value_run_bytes, w.part_values + static_cast<size_t>(first) * job.value_stride,
            job.value_stride, last - first, std::max(1, tokens / run_tokens), layout.value_dim,
            mask, few ? after_values(job, unit, chunk, from, to, w) : nullptr});
    from += tokens;
  }
}

// Weighted values of rows [first, last): the runs of tokens that all of them see whole together,
// what is before and behind for the heads of each token, which see the same. Each row adds its
// tokens in order, from its first to its last.
void add_values_of_rows(const AttentionJob& job, const AttentionUnit& unit, int chunk, int first,
                        int last, AttentionWorkspace& w) {
  const auto run_tokens = static_cast<int>(job.view.layout.value_run_tokens);
  int common_begin = 0, common_end = kChunk;
  for (int r = first; r < last; ++r) {
    common_begin = std::max(common_begin, w.begin[r]);
    common_end = std::min(common_end, w.end[r]);
  }
  common_begin = (common_begin + run_tokens - 1) / run_tokens * run_tokens;
  common_end = common_end / run_tokens * run_tokens;
  const bool common = common_begin < common_end;
  const auto for_each_token = [&](const auto& add) {
    for (int r = first, next; r < last; r = next) {
      next = r + 1;
      while (next < last && w.begin[next] == w.begin[r] && w.end[next] == w.end[r]) ++next;
      add(r, next, w.begin[r], w.end[r]);
    }
  };
  for_each_token([&](int r, int next, int begin, int end) {
    add_tokens(job, unit, chunk, r, next, begin, common ? common_begin : end, w);
  });
  if (!common) return;
  add_tokens(job, unit, chunk, first, last, common_begin, common_end, w);
  for_each_token([&](int r, int next, int, int end) {
    add_tokens(job, unit, chunk, r, next, common_end, end, w);
  });
}

}  // namespace

void add_values_plain(const AttentionJob& job, const AttentionUnit& unit, int chunk,
                      AttentionWorkspace& w) {
  const int rows = unit_rows(unit);
  std::fill(w.part_values, w.part_values + static_cast<size_t>(rows) * job.value_stride, 0.0f);
  round_weights(job, rows, w);
  for (int r = 0; r < rows;) {
    if (w.begin[r] == w.end[r]) {
      ++r;
      continue;
    }
    int last = r + 1;
    while (last < rows && w.begin[last] != w.end[last]) ++last;
    add_values_of_rows(job, unit, chunk, r, last, w);
    r = last;
  }
}

}  // namespace quipu::cpu
