// Planning of units that join the rows of sequences with a common prefix (attention.h).
#pragma once

#include "backend/cpu/attention_rows.h"

namespace quipu::cpu {

// Appends the chunks [from, its last) of a row unit to plan.pieces; unit.part is its first result.
void split_unit(const AttentionUnit& unit, int from, AttentionPlan& plan);

// Partial results of a row unit that is split.
inline size_t unit_parts(const AttentionUnit& unit) {
  return static_cast<size_t>(unit_rows(unit)) *
         static_cast<size_t>(unit.chunk_end - unit.chunk_begin);
}

// Where sequences of the batch share blocks for whole chunks: fills plan.pieces, plan.merges and
// plan.joined_rows, and returns the number of partial results. Otherwise leaves them alone and
// returns 0. REQUIRES: plan.rows is planned; plan.pieces and plan.merges are empty.
size_t plan_joins(const AttentionJob& job, AttentionPlan& plan);

}  // namespace quipu::cpu
