// Attention over keys and values that are stored as codes: integer products, and a rounding step or
// two for each group of them.
//
//   score   = q_scale * key_scale[t] * sum over d of (code[t][d] - 128) * q_code[d]
//   value d = w_scale * sum over t of (code[t][d] - 128) * w_code[t],
//             w_code[t] = round(weight[t] * value_scale[t] / w_scale), one w_scale for a row and
//             chunk
//
// int4 is in attention_nibbles.cc.
//
// A row's weights are 0 outside what it sees, so all rows of a unit read the same tokens, and what
// lies in slots that nobody wrote does not matter: a product of integers is never NaN.
#include <algorithm>
#include <cstring>

#include "backend/cpu/attention_rows.h"
#include "backend/cpu/hadamard.h"

namespace quipu::cpu {

namespace {

// The values come after the keys: their scales, which lie apart, are asked for meanwhile.
void ask_for_value_scales(const AttentionJob& job, const AttentionUnit& unit, int32_t position) {
  const KvLayerLayout& layout = job.view.layout;
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const size_t parts = job.has_int4_values() ? 2 * job.value_groups() : 1;  // and minima
  for (size_t i = 0; i < parts; ++i) {
    __builtin_prefetch(scales_at(job, unit, position, layout.value_scale_offset) +
                       i * block_tokens);
  }
}

void score_int8(const AttentionJob& job, const AttentionUnit& unit, int chunk, int t, int count,
                int highest, const uint8_t* ahead, AttentionWorkspace& w) {
  const int rows = unit_rows(unit);
  const size_t scale_offset = job.view.layout.key_scale_offset;
  const uint8_t* tiles[kTileGroup];
  const uint16_t* scales[kTileGroup];
  for (int i = 0; i < count; ++i) {
    tiles[i] = key_tile(job, unit, chunk_start(chunk) + t + i * kLanes);
    scales[i] = scales_at(job, unit, chunk_start(chunk) + t + i * kLanes, scale_offset);
  }
  KeyCodesArgs args{tiles, scales, count, job.key_units, w.q, w.q_start, static_cast<size_t>(rows),
                    rows, w.scores + t, kChunk, ahead};
  if (ahead != nullptr) {
    const int next = chunk_start(chunk) + std::min(t + job.ahead_tokens(), highest - 1);
    args.ahead_scales =
        reinterpret_cast<const uint8_t*>(scales_at(job, unit, next, scale_offset));
  }
  job.codes.key_codes(args);
}

void add_values_int8(const AttentionJob& job, const AttentionUnit& unit, int chunk, int lowest,
                     int highest, AttentionWorkspace& w) {
  const KvLayerLayout& layout = job.view.layout;
  const auto rows = static_cast<size_t>(unit_rows(unit));
  const int first = lowest / kLanes * kLanes;
  const int last = (highest + kLanes - 1) / kLanes * kLanes;
  const uint16_t* scales[kChunk / kLanes];
  for (int t = first; t < last; t += kLanes) {
    scales[t / kLanes] = scales_at(job, unit, chunk_start(chunk) + t, layout.value_scale_offset);
  }
  WeightCodesArgs weights[kRowTile];
  for (size_t r = 0; r < rows; ++r) {
    weights[r] = {w.scores + r * kChunk, w.scaled, scales, w.begin[r], w.end[r], first, last,
                  w.weights + r,         rows,     0.0f,   0};
    job.codes.weight_codes(weights[r]);
  }
  std::fill(w.sums, w.sums + rows * job.value_stride, 0);
  const bool few = rows <= kFewRows;
  for (int t = first; t < last;) {
    const int tokens = run_in_block(job, t, last);
    job.codes.value_codes({value_data(job, unit, chunk_start(chunk) + t), layout.value_run_bytes,
                           tokens / static_cast<int>(layout.value_run_tokens), layout.value_dim,
                           w.weights + static_cast<size_t>((t - first) / 4) * rows, rows,
                           static_cast<int>(rows), w.sums, job.value_stride,
                           few ? after_values(job, unit, chunk, t, highest) : nullptr});
    t += tokens;
  }
  for (size_t r = 0; r < rows; ++r) {
    job.codes.scale_sums({w.sums + r * job.value_stride, static_cast<size_t>(layout.value_dim),
                          128 * weights[r].sum, weights[r].scale,
                          w.part_values + r * job.value_stride});
  }
}

}  // namespace

void pack_queries_codes(const AttentionJob& job, const AttentionUnit& unit, int chunk,
                        AttentionWorkspace& w) {
  const auto rows = static_cast<size_t>(unit_rows(unit));
  const auto dim = static_cast<size_t>(job.view.layout.key_dim);
  for (size_t r = 0; r < rows; ++r) {
    const float* q = row_query(job, unit, chunk, static_cast<int>(r));
    if (job.has_int4_keys()) {  // rotated as the keys are
      std::copy(q, q + dim, w.scaled);
      rotate_hadamard(w.scaled, dim);
      q = w.scaled;
    }
    QueryCodesArgs args{q, dim, w.q + r, rows, 0.0f, 0};
    job.codes.query_codes(args);
    w.q_scale[r] = args.scale;
    w.q_start[r] = args.start;
    if (!job.has_int4_keys()) continue;
    QueryBytesArgs bytes{q, dim, args.scale, w.q_bytes + r, w.q_sums + r, rows};
    job.codes.query_bytes(bytes);
  }
}

void compute_scores_codes(const AttentionJob& job, const AttentionUnit& unit, int chunk, int lowest,
                          int highest, AttentionWorkspace& w) {
  const bool few = unit_rows(unit) <= kFewRows;
  if (job.has_int4_keys()) multiply_means(job, unit, chunk, lowest, highest, w);
  int t = lowest / kLanes * kLanes;
  while (t < highest) {
    const uint8_t* ahead = few ? after_keys(job, unit, chunk, t, lowest, highest) : nullptr;
    // Few rows: two tiles of one block, so that what lies ahead is one run of memory.
    const int together = few ? std::min(2, run_in_block(job, t, kChunk) / kLanes) : kTileGroup;
    const int count = std::min(together, (highest - t + kLanes - 1) / kLanes);
    if (few) ask_for_value_scales(job, unit, chunk_start(chunk) + t);
    if (job.has_int4_keys()) {
      score_int4(job, unit, chunk, t, count, ahead, w);
    } else {
      score_int8(job, unit, chunk, t, count, highest, ahead, w);
    }
    t += count * kLanes;
  }
}

void add_values_codes(const AttentionJob& job, const AttentionUnit& unit, int chunk, int lowest,
                      int highest, AttentionWorkspace& w) {
  if (job.has_int4_values()) {
    add_values_int4(job, unit, chunk, lowest, highest, w);
  } else {
    add_values_int8(job, unit, chunk, lowest, highest, w);
  }
}

}  // namespace quipu::cpu
