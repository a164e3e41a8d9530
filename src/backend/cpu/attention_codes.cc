// Attention over keys and values that are stored as codes: integer products, and a rounding step or
// two for each group of them.
//
//   int8  score = q_scale * key_scale[t] * sum over d of (code[t][d] - 128) * q_code[d]
//   int4  score = q_scale * (mean of t's tile . q_code + sum over groups of
//                            (scale[t] * sum of code[t][d] * q_code[d] + minimum[t] * sum of q_code))
//
//   value d = w_scale * sum over t of (code[t][d] - zero) * w_code[t] + sum of weight * minimum,
//             w_code[t] = round(weight[t] * value_scale[t] / w_scale), one w_scale for each row,
//             chunk and group; zero and minimum are 128 and 0 in int8, 0 and the group's in int4
//
// A row's weights are 0 outside what it sees, so all rows of a unit read the same tokens, and what
// lies in slots that nobody wrote does not matter: a product of integers is never NaN.
#include <algorithm>
#include <cstring>

#include "backend/cpu/attention_rows.h"
#include "backend/cpu/hadamard.h"

namespace quipu::cpu {

namespace {

const uint16_t* scales_at(const AttentionJob& job, const AttentionUnit& unit, int32_t position,
                          size_t scale_offset) {
  const auto offset = static_cast<size_t>(position % job.view.layout.block_tokens);
  return reinterpret_cast<const uint16_t*>(head_data(job, unit, position) + scale_offset) + offset;
}

// Positions from t to the end of its block or of the range, whichever comes first.
int run_in_block(const AttentionJob& job, int t, int highest) {
  const int block_tokens = job.view.layout.block_tokens;
  return std::min(highest - t, block_tokens - t % block_tokens);
}

// Products of every query and the means of the chunk's key tiles, 16 means at a time: they are put
// together as a tile of int8 keys. Means of tiles outside [lowest, highest) are not read.
void multiply_means(const AttentionJob& job, const AttentionUnit& unit, int chunk, int lowest,
                    int highest, AttentionWorkspace& w) {
  constexpr int kMeanTile = kLanes * kLanes;  // positions that one tile of means covers
  const KvLayerLayout& layout = job.view.layout;
  const int rows = unit_rows(unit);
  const size_t tile_bytes = job.key_units * 4 * kLanes;
  for (int from = lowest / kMeanTile * kMeanTile; from < highest; from += kMeanTile) {
    uint8_t* tile = w.mean_tiles + static_cast<size_t>(from / kMeanTile) * tile_bytes;
    uint16_t scales[kLanes] = {};
    const uint8_t* means[kLanes] = {};
    // The means lie far apart: all are asked for before the first is waited for.
    for (int lane = 0; lane < kLanes; ++lane) {
      const int t = from + lane * kLanes;
      if (t + kLanes <= lowest || t >= highest) continue;
      const int32_t position = chunk_start(chunk) + t;
      const uint8_t* head = head_data(job, unit, position);
      const auto index = static_cast<size_t>(position % layout.block_tokens / kLanes);
      means[lane] = head + layout.key_mean_offset + index * layout.key_mean_bytes;
      for (size_t i = 0; i < layout.key_mean_bytes; i += 64) __builtin_prefetch(means[lane] + i);
      std::memcpy(&scales[lane], head + layout.key_mean_scale_offset + 2 * index, 2);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      if (means[lane] == nullptr) continue;
      for (size_t quad = 0; quad < job.key_units; ++quad) {
        std::memcpy(tile + quad * 4 * kLanes + 4 * lane, means[lane] + 4 * quad, 4);
      }
    }
    const uint8_t* tiles[] = {tile};
    const uint16_t* tile_scales[] = {scales};
    job.codes.key_codes({tiles, tile_scales, 1, job.key_units, w.q, w.q_start,
                         static_cast<size_t>(rows), rows, w.base + from / kLanes, kChunk / kLanes});
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
    const int next = chunk_start(chunk) + std::min(t + kAhead, highest - 1);
    args.ahead_scales =
        reinterpret_cast<const uint8_t*>(scales_at(job, unit, next, scale_offset));
  }
  job.codes.key_codes(args);
}

void score_int4(const AttentionJob& job, const AttentionUnit& unit, int chunk, int t, int count,
                const uint8_t* ahead, AttentionWorkspace& w) {
  const int rows = unit_rows(unit);
  const uint8_t* tiles[kTileGroup];
  for (int i = 0; i < count; ++i) {
    tiles[i] = key_tile(job, unit, chunk_start(chunk) + t + i * kLanes);
  }
  job.codes.key_nibbles({tiles, count, job.key_units, w.q, w.q_sums, static_cast<size_t>(rows),
                         rows, w.base + t / kLanes, kChunk / kLanes, w.scores + t, kChunk, ahead,
                         job.view.layout.key_tile_bytes});
}

// One group of value elements of all rows.
void add_value_group(const AttentionJob& job, const AttentionUnit& unit, int chunk, int lowest,
                     int highest, size_t group, AttentionWorkspace& w) {
  const KvLayerLayout& layout = job.view.layout;
  const bool int4 = job.has_int4_values();
  const auto rows = static_cast<size_t>(unit_rows(unit));
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const size_t first_dim = group * kValueGroup;
  const int dim = int4 ? std::min(kValueGroup, layout.value_dim - static_cast<int>(first_dim))
                       : layout.value_dim;
  const int first = lowest / kLanes * kLanes;
  const int last = (highest + kLanes - 1) / kLanes * kLanes;
  const uint16_t* scales[kChunk / kLanes];
  const uint16_t* minima[kChunk / kLanes];
  for (int t = first; t < last; t += kLanes) {
    scales[t / kLanes] =
        scales_at(job, unit, chunk_start(chunk) + t, layout.value_scale_offset) + group * block_tokens;
    minima[t / kLanes] =
        scales_at(job, unit, chunk_start(chunk) + t, layout.value_min_offset) + group * block_tokens;
  }
  WeightCodesArgs weights[kRowTile];
  for (size_t r = 0; r < rows; ++r) {
    weights[r] = {w.scores + r * kChunk, w.scaled, scales, int4 ? minima : nullptr, w.begin[r],
                  w.end[r], first, last, w.weights + r, rows, 0.0f, 0.0f, 0};
    job.codes.weight_codes(weights[r]);
  }
  std::fill(w.sums, w.sums + rows * job.value_stride, 0);
  const auto kernel = int4 ? job.codes.value_nibbles : job.codes.value_codes;
  const bool few = rows <= kFewRows;
  for (int t = first; t < last;) {
    const int tokens = run_in_block(job, t, last);
    const uint8_t* ahead = few ? after_values(job, unit, chunk, t, highest) : nullptr;
    kernel({value_data(job, unit, chunk_start(chunk) + t) + 4 * first_dim, layout.value_run_bytes,
            tokens / static_cast<int>(layout.value_run_tokens), dim,
            w.weights + static_cast<size_t>((t - first) / 4) * rows, rows, static_cast<int>(rows),
            w.sums, job.value_stride, few ? ahead + 4 * first_dim : nullptr});
    t += tokens;
  }
  for (size_t r = 0; r < rows; ++r) {
    const WeightCodesArgs& row = weights[r];
    job.codes.scale_sums({w.sums + r * job.value_stride, static_cast<size_t>(dim),
                          int4 ? 0 : 128 * row.sum, row.scale, int4 ? row.minimum_sum : 0.0f,
                          w.part_values + r * job.value_stride + first_dim});
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
    QueryCodesArgs args{q, dim, w.q + r, w.q_sums + r, rows, 0.0f, 0};
    job.codes.query_codes(args);
    w.q_scale[r] = args.scale;
    w.q_start[r] = args.start;
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
  const size_t groups =
      job.has_int4_values()
          ? ceil_div(static_cast<uint64_t>(job.view.layout.value_dim), kValueGroup)
          : 1;
  for (size_t group = 0; group < groups; ++group) {
    add_value_group(job, unit, chunk, lowest, highest, group, w);
  }
}

}  // namespace quipu::cpu
