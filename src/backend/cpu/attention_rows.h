// What the parts of attention share: a job, a thread's working memory for one tile of rows, where
// keys and values lie; and the two families of formats. Floats (f32, bf16) are multiplied as they
// are; codes (int8, int4) as integers, with queries and weights quantised to wide codes (kernels_codes.h).
// attention.cc cuts the work up, calls these, and merges what they give.
//
// THREADS: one workspace per thread; everything else is only read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/attention.h"
#include "backend/cpu/kernels_codes.h"
#include "base/units.h"

namespace quipu::cpu {

inline constexpr int kChunk = kAttentionChunk;
inline constexpr int kRowTile = 32;
// Tiles of rows that one thread takes through a chunk together: the chunk (256 KiB of bf16) comes
// from memory for the first and from L2 for the others.
inline constexpr size_t kTilesTogether = 4;
// The sinks, a chunk of their own before chunk 0 (attention.h).
inline constexpr int kSinkChunk = -1;
static_assert(kLanes == kKvTileTokens);
static_assert(kKeyGroup == kKvKeyGroup && kValueGroup == kKvValueGroup);
// Up to this many rows a chunk is bound by reading it: then what comes next is asked for meanwhile.
inline constexpr int kFewRows = 8;

// What a job reads: the arguments and what follows from them.
struct AttentionJob {
  const AttentionArgs& args;
  const KernelTable& kernels;
  const CodeKernels& codes;
  const KvLayerView& view;
  int group;                        // query heads per KV head
  size_t key_units;                 // of a query: elements (f32), pairs (bf16) or quads (codes)
  size_t value_stride;              // value_dim rounded up to whole vectors
  int run_shift;                    // of value_run_tokens, a power of two
  const JoinedRow* joined_rows = nullptr;
  RowState* part_states = nullptr;  // split chunks
  float* part_values = nullptr;

  bool has_key_codes() const { return kv_format_has_codes(view.layout.key_format); }
  bool has_value_codes() const { return kv_format_has_codes(view.layout.format); }
  bool has_int4_keys() const { return view.layout.key_format == KvFormat::kInt4; }
  bool has_int4_values() const { return view.layout.format == KvFormat::kInt4; }
  // int4: groups of a value's elements that share scales.
  size_t value_groups() const {
    return ceil_div(static_cast<uint64_t>(view.layout.value_dim), kValueGroup);
  }
};

// Where 16 tokens of a chunk lie: the head's data in their block, and the first one's place there.
struct TilePlace {
  const uint8_t* head;
  size_t offset;  // UNITS: tokens
};

// One thread's working memory for one tile of rows.
struct AttentionWorkspace {
  // What stays while a tile goes from chunk to chunk.
  uint64_t* q;        // [key_units][rows] f32, bf16 pairs or quads of wide codes
  float* values;      // [kRowTile][value_stride]
  uint32_t* q_bytes;  // int4 keys: [key_units][rows] quads of bytes
  float* q_sums;      // int4 keys: [groups][rows] of the bytes of each query
  // What is of one chunk: the tiles of a thread share it.
  float* scores;       // [kRowTile][kChunk]
  float* part_values;  // [kRowTile][value_stride]
  // Codes only.
  float* scaled;        // [max(kChunk, key_dim)]
  uint64_t* weights;    // int8: [kChunk / 4][rows] quads of wide codes
  int32_t* sums;        // int8: [kRowTile][value_stride]
  uint32_t* weight_bytes;  // int4 values: [kChunk / 4][rows] quads of bytes
  float* weight_scales;    // int4 values: [kChunk / kWeightGroup][rows]
  uint8_t* mean_tiles;  // int4 keys: [kChunk / 256][key_units][16][4]: means of the chunk's tiles
  float* base;          // int4 keys: [kRowTile][kChunk / 16]: products of queries and means
  TilePlace places[kChunk / kLanes];  // of the tiles that its rows see
  // Codes, few rows: the blocks of what comes next.
  ReadAhead ahead;
  const uint8_t* ahead_runs[kChunk / kLanes];
  // By row.
  RowState parts[kRowTile];
  RowState states[kRowTile];
  int begin[kRowTile], end[kRowTile];  // positions of the chunk that it sees
  float q_scale[kRowTile];             // of its query's codes; 1 for floats
  int32_t q_start[kRowTile];           // codes: what its sums of products start with
};
// Of the tiles that go together.
struct AttentionWorkspaces {
  AttentionWorkspace tiles[kTilesTogether];
};

// REQUIRES: memory of workspace_bytes(), for `tiles` of them.
AttentionWorkspaces make_workspaces(const AttentionJob& job, size_t tiles, std::byte* memory);
size_t workspace_bytes(const AttentionJob& job, size_t tiles);

inline int unit_rows(const AttentionUnit& unit) { return unit.row_end - unit.row_begin; }
// Null where many rows share what is read.
inline ReadAhead* ahead_of(const AttentionUnit& unit, AttentionWorkspace& w) {
  return unit_rows(unit) <= kFewRows ? &w.ahead : nullptr;
}

// The first position of a chunk; the sinks begin where chunk 0 does.
inline int32_t chunk_start(int chunk) { return chunk == kSinkChunk ? 0 : chunk * kChunk; }

// Row r of a unit: its token, and its query head.
struct RowPlace {
  size_t token, head;
};
inline RowPlace row_place(const AttentionJob& job, const AttentionUnit& unit, int r) {
  const int32_t row = unit.kind == UnitKind::kJoined ? job.joined_rows[unit.row_begin + r].row
                                                     : unit.row_begin + r;
  return {static_cast<size_t>(row / job.group),
          static_cast<size_t>(unit.kv_head * job.group + row % job.group)};
}

// Row r's query, or the one that it looks at the sinks with. SHAPE: [key_dim]
inline const float* row_query(const AttentionJob& job, const AttentionUnit& unit, int chunk,
                              int r) {
  const RowPlace place = row_place(job, unit, r);
  const float* queries = chunk == kSinkChunk ? job.args.q_sinks : job.args.q;
  const size_t stride = chunk == kSinkChunk ? job.args.q_sinks_stride : job.args.q_stride;
  return queries + place.token * stride +
         place.head * static_cast<size_t>(job.view.layout.key_dim);
}

// The last position of a unit's sequence.
inline int32_t last_position(const AttentionJob& job, const AttentionUnit& unit) {
  const auto sequence = static_cast<size_t>(unit.sequence);
  if (job.args.key_counts != nullptr) return job.args.key_counts[sequence] - 1;
  return job.args.positions[job.args.query_start[sequence + 1] - 1];
}

inline const uint8_t* head_data(const AttentionJob& job, const AttentionUnit& unit,
                                int32_t position) {
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

// Looks up the blocks of positions [lowest, highest) of a chunk, once for all that reads them.
inline void find_places(const AttentionJob& job, const AttentionUnit& unit, int chunk, int lowest,
                        int highest, AttentionWorkspace& w) {
  const int block_tokens = job.view.layout.block_tokens;
  for (int t = lowest / block_tokens * block_tokens; t < highest; t += block_tokens) {
    const uint8_t* head = head_data(job, unit, chunk_start(chunk) + t);
    for (int offset = 0; offset < block_tokens; offset += kLanes)
      w.places[(t + offset) / kLanes] = {head, static_cast<size_t>(offset)};
  }
}

// By the position in the chunk, which find_places() has looked up.
inline const uint8_t* key_tile(const AttentionJob& job, const AttentionWorkspace& w, int t) {
  const TilePlace& place = w.places[static_cast<unsigned>(t) / kLanes];
  return place.head + place.offset / kLanes * job.view.layout.key_tile_bytes;
}

// The run of values that the position lies in.
inline const uint8_t* value_data(const AttentionJob& job, const AttentionWorkspace& w, int t) {
  const KvLayerLayout& layout = job.view.layout;
  const TilePlace& place = w.places[static_cast<unsigned>(t) / kLanes];
  const size_t offset = place.offset + static_cast<unsigned>(t) % kLanes;
  return place.head + layout.value_offset + (offset >> job.run_shift) * layout.value_run_bytes;
}

inline const uint16_t* scales_at(const AttentionWorkspace& w, int t, size_t scale_offset) {
  const TilePlace& place = w.places[static_cast<unsigned>(t) / kLanes];
  return reinterpret_cast<const uint16_t*>(place.head + scale_offset) + place.offset +
         static_cast<unsigned>(t) % kLanes;
}

// Positions from t to the end of its block or of the range, whichever comes first.
inline int run_in_block(const AttentionJob& job, int t, int highest) {
  const int block_tokens = job.view.layout.block_tokens;
  return std::min(highest - t, block_tokens - t % block_tokens);
}

// For the rows of a unit, by family:
// - pack_queries: for a chunk (only the sinks have queries of their own), w.q, w.q_scale and, for codes, w.q_sums
//   and w.q_start.
// - compute_scores: w.scores against the key tiles of positions [lowest, highest) of a chunk, to be
//   multiplied by w.q_scale.
// - add_values: w.part_values from w.scores, which hold softmax weights by now; zero for a row that
//   sees nothing.
void pack_queries_plain(const AttentionJob& job, const AttentionUnit& unit, int chunk,
                        AttentionWorkspace& w);
void compute_scores_plain(const AttentionJob& job, const AttentionUnit& unit, int lowest,
                          int highest, AttentionWorkspace& w);
void add_values_plain(const AttentionJob& job, const AttentionUnit& unit, int chunk,
                      AttentionWorkspace& w);

void pack_queries_codes(const AttentionJob& job, const AttentionUnit& unit, int chunk,
                        AttentionWorkspace& w);
void compute_scores_codes(const AttentionJob& job, const AttentionUnit& unit, int lowest,
                          int highest, AttentionWorkspace& w);
void add_values_codes(const AttentionJob& job, const AttentionUnit& unit, int lowest, int highest,
                      AttentionWorkspace& w);

// Parts of those in int4 (attention_nibbles.cc). multiply_means: products of every query and the
// means of the chunk's tiles, to w.base; score_int4: w.scores of `count` tiles from position t on.
void multiply_means(const AttentionJob& job, int rows, int lowest, int highest,
                    AttentionWorkspace& w);
void score_int4(const AttentionJob& job, const AttentionUnit& unit, int t, int count,
                AttentionWorkspace& w);
void add_values_int4(const AttentionJob& job, const AttentionUnit& unit, int lowest, int highest,
                     AttentionWorkspace& w);

}  // namespace quipu::cpu
