// int4 in attention: codes of four bits, queries and weights of eight, integer products.
//
//   score   = q_scale * (mean of t's tile . q_code + 128 * sum over groups of elements of
//                        (scale[t] * sum of code[t][d] * q_byte[d] + minimum[t] * sum of q_byte))
//   value d = sum over groups of 32 tokens of (w_scale * sum of code[t][d] * w_byte[t])
//             + sum over t of weight[t] * minimum[t],
//             w_byte[t] = round(weight[t] * value_scale[t] / w_scale)
//
// The mean of a tile may be much larger than what is left of its keys, so it meets the query's wide
// codes. What is left has errors of 4 bits, beside which those of bytes are nothing: a hundredth of
// their variance. A weight has a scale with its neighbours, as weights of one chunk differ by many
// powers of two.
#include <algorithm>
#include <cstring>

#include "backend/cpu/attention_rows.h"

namespace quipu::cpu {

namespace {

struct TileMean {
  const uint8_t* codes;
  const uint8_t* scale;  // bf16
};

TileMean tile_mean(const AttentionJob& job, const uint8_t* head, size_t index) {
  const KvLayerLayout& layout = job.view.layout;
  return {head + layout.key_mean_offset + index * layout.key_mean_bytes,
          head + layout.key_mean_scale_offset + 2 * index};
}

void ask_for_mean(const AttentionJob& job, const TileMean& mean) {
  for (size_t i = 0; i < job.view.layout.key_mean_bytes; i += 64)
    __builtin_prefetch(mean.codes + i);
  __builtin_prefetch(mean.scale);
}

}  // namespace

// Products of every query and the means of the chunk's key tiles, 16 means at a time: they are put
// together as a tile of int8 keys. Means of tiles outside [lowest, highest) are not read.
void multiply_means(const AttentionJob& job, int rows, int lowest, int highest,
                    AttentionWorkspace& w) {
  constexpr int kMeanTile = kLanes * kLanes;  // positions that one tile of means covers
  const size_t tile_bytes = job.key_units * 4 * kLanes;
  for (int from = lowest / kMeanTile * kMeanTile; from < highest; from += kMeanTile) {
    uint8_t* tile = w.mean_tiles + static_cast<size_t>(from / kMeanTile) * tile_bytes;
    uint16_t scales[kLanes] = {};
    const uint8_t* means[kLanes] = {};
    // The means lie far apart: all are asked for before the first is waited for.
    for (int lane = 0; lane < kLanes; ++lane) {
      const int t = from + lane * kLanes;
      if (t + kLanes <= lowest || t >= highest) continue;
      const TilePlace& place = w.places[t / kLanes];
      const TileMean mean = tile_mean(job, place.head, place.offset / kLanes);
      ask_for_mean(job, mean);
      means[lane] = mean.codes;
      std::memcpy(&scales[lane], mean.scale, 2);
    }
    job.codes.interleave(means, job.key_units, tile);
    const uint8_t* tiles[] = {tile};
    const uint16_t* tile_scales[] = {scales};
    job.codes.key_codes({tiles, tile_scales, 1, job.key_units, w.q, w.q_start,
                         static_cast<size_t>(rows), rows, w.base + from / kLanes, kChunk / kLanes});
  }
}

void score_int4(const AttentionJob& job, const AttentionUnit& unit, int t, int count,
                AttentionWorkspace& w) {
  const int rows = unit_rows(unit);
  const uint8_t* tiles[kTileGroup];
  for (int i = 0; i < count; ++i) tiles[i] = key_tile(job, w, t + i * kLanes);
  job.codes.key_nibbles({tiles, count, job.key_units, w.q_bytes, w.q_sums,
                         static_cast<size_t>(rows), rows, w.base + t / kLanes, kChunk / kLanes,
                         w.scores + t, kChunk, ahead_of(unit, w)});
}

void add_values_int4(const AttentionJob& job, const AttentionUnit& unit, int lowest, int highest,
                     AttentionWorkspace& w) {
  const KvLayerLayout& layout = job.view.layout;
  const auto rows = static_cast<size_t>(unit_rows(unit));
  const auto block_tokens = static_cast<size_t>(layout.block_tokens);
  const int first = lowest / kLanes, last = (highest + kLanes - 1) / kLanes;  // tiles
  // By tile.
  const uint8_t* tiles[kChunk / kLanes];
  const uint16_t* scales[kChunk / kLanes];
  const uint16_t* minima[kChunk / kLanes];
  for (int tile = first; tile < last; ++tile) {
    const int t = tile * kLanes;
    tiles[tile] = value_data(job, w, t);
    scales[tile] = scales_at(w, t, layout.value_scale_offset);
    minima[tile] = scales_at(w, t, layout.value_min_offset);
  }
  for (size_t group = 0; group < job.value_groups(); ++group) {
    const size_t first_dim = group * kValueGroup;
    const int dim = std::min(kValueGroup, layout.value_dim - static_cast<int>(first_dim));
    float* out = w.part_values + first_dim;
    for (size_t r = 0; r < rows; ++r) {
      WeightBytesArgs args{w.scores + r * kChunk,
                           scales,
                           minima,
                           w.begin[r],
                           w.end[r],
                           first * kLanes,
                           last * kLanes,
                           w.weight_bytes + r,
                           w.weight_scales + r,
                           rows,
                           0.0f,
                           ahead_of(unit, w)};
      job.codes.weight_bytes(args);
      float* row = out + r * job.value_stride;
      std::fill(row, row + round_up(static_cast<uint64_t>(dim), kLanes), args.minimum_sum);
    }
    job.codes.value_nibbles({tiles, layout.value_run_bytes, first, last, dim, w.weight_bytes,
                             w.weight_scales, rows, static_cast<int>(rows), out, job.value_stride,
                             ahead_of(unit, w)});
    for (int tile = first; tile < last; ++tile) {
      tiles[tile] += 4 * kValueGroup;
      scales[tile] += block_tokens;
      minima[tile] += block_tokens;
    }
  }
}

}  // namespace quipu::cpu
