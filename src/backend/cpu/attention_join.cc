#include "backend/cpu/attention_join.h"

#include <algorithm>

namespace quipu::cpu {

namespace {

using Job = AttentionJob;

// Whole chunks that lie before all of a sequence's tokens: every row sees them from end to end.
int full_chunks(const Job& job, int32_t sequence) {
  return job.args.positions[job.args.query_start[sequence]] / kChunk;
}

const int32_t* table_of(const Job& job, int32_t sequence) {
  return job.args.block_tables + static_cast<size_t>(sequence) * job.args.block_table_stride;
}

// Whole chunks at the beginning that two sequences have in the same blocks.
int common_chunks(const Job& job, int32_t a, int32_t b) {
  const int blocks = kChunk / job.args.kv.block_tokens;
  const int chunks = std::min(full_chunks(job, a), full_chunks(job, b));
  const int32_t* x = table_of(job, a);
  const auto differ = std::mismatch(x, x + chunks * blocks, table_of(job, b));
  return static_cast<int>(differ.first - x) / blocks;
}

// Sequences that may join: with something whole before their tokens and few rows.
void order_sequences(const Job& job, AttentionPlan& plan) {
  plan.order.clear();
  for (int32_t s = 0; s < static_cast<int32_t>(job.args.sequences); ++s) {
    const int32_t tokens = job.args.query_start[s + 1] - job.args.query_start[s];
    if (tokens > 0 && tokens * job.group <= kRowTile / 2 && full_chunks(job, s) > 0)
      plan.order.push_back(s);
  }
  // A block stands for all tokens before it, so sequences that share a chunk share those before:
  // in the order of their tables, those that share are neighbours.
  const int blocks = kChunk / job.args.kv.block_tokens;
  std::sort(plan.order.begin(), plan.order.end(), [&](int32_t a, int32_t b) {
    const int32_t* x = table_of(job, a);
    const int32_t* y = table_of(job, b);
    const auto [p, q] = std::mismatch(x, x + full_chunks(job, a) * blocks, y,
                                      y + full_chunks(job, b) * blocks);
    const bool a_ends = p == x + full_chunks(job, a) * blocks;
    const bool b_ends = q == y + full_chunks(job, b) * blocks;
    if (a_ends || b_ends) return a_ends != b_ends ? a_ends : a < b;
    return *p < *q;
  });
}

// The row unit of a sequence that may join: it has one for each head. REQUIRES: planned in order.
AttentionUnit& unit_of(AttentionPlan& plan, int32_t sequence, int head) {
  const auto found = std::lower_bound(
      plan.rows.begin(), plan.rows.end(), sequence,
      [](const AttentionUnit& unit, int32_t wanted) { return unit.sequence < wanted; });
  return *(found + head);
}

// One chunk of sequences order[first, last), for one head: units of up to kRowTile rows.
void join_chunk(AttentionPlan& plan, size_t first, size_t last, int head, int chunk) {
  size_t begin = plan.joined_rows.size();
  const auto flush = [&] {
    if (plan.joined_rows.size() == begin) return;
    plan.pieces.push_back({plan.order[first], head, static_cast<int32_t>(begin),
                           static_cast<int32_t>(plan.joined_rows.size()), chunk, chunk + 1, 0,
                           UnitKind::kJoined});
    begin = plan.joined_rows.size();
  };
  for (size_t i = first; i < last; ++i) {
    const AttentionUnit& unit = unit_of(plan, plan.order[i], head);
    const auto rows = static_cast<size_t>(unit_rows(unit));
    if (plan.joined_rows.size() - begin + rows > kRowTile) flush();
    size_t part = unit.part + static_cast<size_t>(chunk - unit.chunk_begin) * rows;
    for (int32_t row = unit.row_begin; row < unit.row_end; ++row, ++part) {
      plan.joined_rows.push_back({row, part});
    }
  }
  flush();
}

}  // namespace

void split_unit(const AttentionUnit& unit, int from, AttentionPlan& plan) {
  for (int chunk = from; chunk < unit.chunk_end; ++chunk) {
    AttentionUnit piece = unit;
    piece.kind = UnitKind::kSplit;
    piece.chunk_begin = chunk;
    piece.chunk_end = chunk + 1;
    piece.part += static_cast<size_t>(chunk - unit.chunk_begin) *
                  static_cast<size_t>(unit_rows(unit));
    plan.pieces.push_back(piece);
  }
}

size_t plan_joins(const Job& job, AttentionPlan& plan) {
  plan.joined_rows.clear();
  if (job.args.sequences < 2 || job.args.window > 0 || job.args.block_gaps != nullptr ||
      job.args.key_counts != nullptr) {
    return 0;
  }
  order_sequences(job, plan);
  // shared[i]: chunks that order[i] has in common with order[i + 1].
  plan.shared.assign(plan.order.size(), 0);
  int most = 0;
  for (size_t i = 0; i + 1 < plan.order.size(); ++i) {
    plan.shared[i] = common_chunks(job, plan.order[i], plan.order[i + 1]);
    most = std::max(most, plan.shared[i]);
  }
  if (most == 0) return 0;

  const int kv_heads = job.view.layout.kv_heads;
  size_t parts = 0;
  // Units of sequences that share something have partial results; the others are whole.
  for (AttentionUnit& unit : plan.rows) unit.kind = UnitKind::kWhole;
  for (size_t i = 0; i < plan.order.size(); ++i) {
    const int own = std::max(plan.shared[i], i > 0 ? plan.shared[i - 1] : 0);
    if (own == 0) continue;
    for (int head = 0; head < kv_heads; ++head) {
      AttentionUnit& unit = unit_of(plan, plan.order[i], head);
      unit.kind = UnitKind::kSplit;
      unit.part = parts;
      parts += unit_parts(unit);
    }
  }
  for (int chunk = 0; chunk < most; ++chunk) {
    for (size_t first = 0; first < plan.order.size();) {
      size_t last = first + 1;
      while (last < plan.order.size() && plan.shared[last - 1] > chunk) ++last;
      for (int head = 0; last - first > 1 && head < kv_heads; ++head) {
        join_chunk(plan, first, last, head, chunk);
      }
      first = last;
    }
  }
  for (size_t i = 0; i < plan.order.size(); ++i) {
    const int own = std::max(plan.shared[i], i > 0 ? plan.shared[i - 1] : 0);
    for (int head = 0; own > 0 && head < kv_heads; ++head) {
      const AttentionUnit& unit = unit_of(plan, plan.order[i], head);
      split_unit(unit, own, plan);
      plan.merges.push_back(unit);
    }
  }
  return parts;
}

}  // namespace quipu::cpu
