// Paged attention as a join between query rows and chunks of keys and values.
//
// A row is one query head of one token; a chunk is 512 positions of one sequence, counted from 0.
// A unit of work is (sequence, KV head, tile of rows): all query heads of the group for a run of
// tokens, so a key tile or value row that was loaded serves every row of the tile.
//
//   per chunk   scores [rows][512]  keys in tiles of 16 tokens, no horizontal sums
//               weights             scale, soft cap, mask, exact maximum of the chunk, exp, sum
//               values [rows][dim]  token by token, in order; never past the row's position
//   per row     merge of (maximum, sum, values) in chunk order, always by the same code
//
// Tiles of a prompt's rows go through a chunk one after another while it is in L2, so that keys and
// values come from memory once for 128 rows and not for 32.
//
// Sinks are one more chunk before chunk 0, kSinkChunk: positions [0, sinks), read with a query of
// their own. The other chunks then leave those positions out.
//
// With few units (decode of few sequences) the chunks of a unit go to different threads, their
// partial results wait in scratch memory, and a second phase merges them in the same order. The
// bits depend on the row's query, position and keys alone.
//
// Where sequences share a prefix, their block tables name the same blocks. Rows of all of them then
// join one unit for each chunk that lies in such blocks, and it is read once for all. Only
// sequences with few rows (decode) join: a prefill chunk has rows enough of its own.
//
// THREADS: the caller's thread; runs jobs on the pool.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels_codes.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/thread_pool.h"

namespace quipu::cpu {

enum class UnitKind : uint8_t {
  kWhole,   // all chunks of its rows, from first to last
  kSplit,   // one chunk of its rows, or, to merge them, all
  kJoined,  // one chunk of rows of several sequences
};

// Rows of one KV head. A row is token * group + head of the group. kWhole and kSplit have rows
// [row_begin, row_end) of one sequence; kJoined has plan.joined_rows[row_begin .. row_end), and
// reads keys and values through the table of `sequence`, one of its sequences.
struct AttentionUnit {
  int32_t sequence, kv_head;
  int32_t row_begin, row_end;
  int32_t chunk_begin, chunk_end;
  size_t part;  // of kSplit: index of the first partial result (row, chunk)
  UnitKind kind;
};

// A row of a joined unit.
struct JoinedRow {
  int32_t row;
  size_t part;  // index of its partial result
};

// Kept between calls, so that a steady step allocates nothing.
struct AttentionPlan {
  std::vector<AttentionUnit> rows;  // one per (sequence, KV head, tile of rows)
  // What threads take first: runs of whole units of one sequence and head (attention_rows.h), then
  // chunks and joined chunks.
  std::vector<std::span<const AttentionUnit>> runs;
  std::vector<AttentionUnit> pieces;
  std::vector<AttentionUnit> merges;   // row units whose partial results are merged after that
  std::vector<JoinedRow> joined_rows;  // of all joined units
  std::vector<int32_t> order;          // sequences that may join, by their block tables
  std::vector<int32_t> shared;         // chunks that each of them shares with the next
};

void run_attention(const AttentionArgs& args, const KernelTable& kernels, const CodeKernels& codes,
                   ThreadPool& pool, Scratch& scratch, AttentionPlan& plan);

}  // namespace quipu::cpu
