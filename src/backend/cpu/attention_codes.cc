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

void score_int8(const AttentionJob& job, const AttentionUnit& unit, int t, int count,
                AttentionWorkspace& w) {
  const int rows = unit_rows(unit);
  const uint8_t* tiles[kTileGroup];
  const uint16_t* scales[kTileGroup];
  for (int i = 0; i < count; ++i) {
    tiles[i] = key_tile(job, w, t + i * kLanes);
    scales[i] = scales_at(w, t + i * kLanes, job.view.layout.key_scale_offset);
  }
  job.codes.key_codes({tiles, scales, count, job.key_units, w.q, w.q_start,
                       static_cast<size_t>(rows), rows, w.scores + t, kChunk, ahead_of(unit, w)});
}

void add_values_int8(const AttentionJob& job, const AttentionUnit& unit, int lowest, int highest,
                     AttentionWorkspace& w) {
  const KvLayerLayout& layout = job.view.layout;
  const auto rows = static_cast<size_t>(unit_rows(unit));
  const int first = lowest / kLanes * kLanes;
  const int last = (highest + kLanes - 1) / kLanes * kLanes;
  const uint16_t* scales[kChunk / kLanes];
  for (int t = first; t < last; t += kLanes) {
    scales[t / kLanes] = scales_at(w, t, layout.value_scale_offset);
  }
  WeightCodesArgs weights[kRowTile];
  for (size_t r = 0; r < rows; ++r) {
    weights[r] = {
        w.scores + r * kChunk, w.scaled, scales, w.begin[r], w.end[r],         first, last,
        w.weights + r,         rows,     0.0f,   0,          ahead_of(unit, w)};
    job.codes.weight_codes(weights[r]);
  }
  std::fill(w.sums, w.sums + rows * job.value_stride, 0);
  for (int t = first; t < last;) {
    const int tokens = run_in_block(job, t, last);
    job.codes.value_codes({value_data(job, w, t), layout.value_run_bytes,
                           tokens / static_cast<int>(layout.value_run_tokens), layout.value_dim,
                           w.weights + static_cast<size_t>((t - first) / 4) * rows, rows,
                           static_cast<int>(rows), w.sums, job.value_stride, ahead_of(unit, w)});
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

void compute_scores_codes(const AttentionJob& job, const AttentionUnit& unit, int lowest,
                          int highest, AttentionWorkspace& w) {
  if (job.has_int4_keys()) multiply_means(job, unit_rows(unit), lowest, highest, w);
  const int together = unit_rows(unit) <= kFewRows ? 2 : kTileGroup;
  for (int t = lowest / kLanes * kLanes, count; t < highest; t += count * kLanes) {
    count = std::min(together, (highest - t + kLanes - 1) / kLanes);
    if (job.has_int4_keys()) {
      score_int4(job, unit, t, count, w);
    } else {
      score_int8(job, unit, t, count, w);
    }
  }
}

void add_values_codes(const AttentionJob& job, const AttentionUnit& unit, int lowest, int highest,
                      AttentionWorkspace& w) {
  if (job.has_int4_values()) {
    add_values_int4(job, unit, lowest, highest, w);
  } else {
    add_values_int8(job, unit, lowest, highest, w);
  }
}

}  // namespace quipu::cpu
