#include "engine/model_runner.h"

#include <algorithm>

namespace quipu {

namespace {

// The first token of the step whose logits this sequence wants; num_tokens when none.
int first_logit_token(const ScheduledSequence& scheduled) {
  const Request& request = scheduled.sequence->request;
  if (request.logits_wanted == LogitsWanted::kAll) {
    // A recomputed sequence shows each position once.
    const int64_t shown = scheduled.sequence->num_observed_tokens - scheduled.first_position;
    return static_cast<int>(std::clamp<int64_t>(shown, 0, scheduled.num_tokens));
  }
  const bool wants_last = scheduled.reaches_end() &&
                          (request.max_tokens > 0 || request.logits_wanted != LogitsWanted::kNone);
  return wants_last ? scheduled.num_tokens - 1 : scheduled.num_tokens;
}

}  // namespace

std::span<const TokenId> ModelRunner::run(const StepPlan& plan) {
  if (!plan.copies.empty()) backend_.copy_blocks(storage_.view(), plan.copies);
  build_batch(plan);
  const ForwardBatch batch = {.token_ids = token_ids_,
                              .positions = positions_,
                              .query_start = query_start_,
                              .slot_mapping = slot_mapping_,
                              .block_tables = block_tables_,
                              .block_table_stride = block_table_stride_,
                              .logit_rows = logit_rows_};
  consume_logits(plan, model_.forward(batch, storage_.view()));
  return next_tokens_;
}

size_t ModelRunner::blocks_per_sequence_max() const {
  return static_cast<size_t>(std::min(
      storage_.spec().blocks_for_tokens(model_.config().context_length), storage_.blocks()));
}

void ModelRunner::build_batch(const StepPlan& plan) {
  for (auto* array : {&token_ids_, &positions_, &query_start_, &logit_rows_}) array->clear();
  slot_mapping_.clear();
  block_table_stride_ = 0;
  for (const ScheduledSequence& scheduled : plan.sequences) {
    block_table_stride_ = std::max(block_table_stride_,
                                   static_cast<size_t>(scheduled.sequence->kv.table.num_blocks()));
  }
  // Room for the longest sequences, so that a growing one allocates nothing.
  block_tables_.reserve(blocks_per_sequence_max() * plan.sequences.size());
  block_tables_.assign(block_table_stride_ * plan.sequences.size(), -1);
  query_start_.push_back(0);
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const ScheduledSequence& scheduled = plan.sequences[s];
    const Sequence& sequence = *scheduled.sequence;
    const auto first_row = static_cast<int32_t>(token_ids_.size());
    for (int i = 0; i < scheduled.num_tokens; ++i) {
      const int64_t position = scheduled.first_position + i;
      token_ids_.push_back(sequence.tokens[static_cast<size_t>(position)]);
      positions_.push_back(static_cast<int32_t>(position));
      slot_mapping_.push_back(sequence.kv.table.slot(position));
    }
    for (int b = 0; b < sequence.kv.table.num_blocks(); ++b) {
      block_tables_[s * block_table_stride_ + static_cast<size_t>(b)] =
          sequence.kv.table.block(b).value();
    }
    add_logit_rows(scheduled, first_row);
    query_start_.push_back(static_cast<int32_t>(token_ids_.size()));
  }
}

void ModelRunner::add_logit_rows(const ScheduledSequence& scheduled, int32_t first_row) {
  for (int i = first_logit_token(scheduled); i < scheduled.num_tokens; ++i)
    logit_rows_.push_back(first_row + i);
}

void ModelRunner::consume_logits(const StepPlan& plan, std::span<const float> logits) {
  const size_t vocab = static_cast<size_t>(model_.config().vocab_size);
  next_tokens_.assign(plan.sequences.size(), 0);
  size_t row = 0;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const ScheduledSequence& scheduled = plan.sequences[s];
    Sequence& sequence = *scheduled.sequence;
    for (int i = first_logit_token(scheduled); i < scheduled.num_tokens; ++i, ++row) {
      const std::span<const float> row_logits = logits.subspan(row * vocab, vocab);
      const int64_t position = scheduled.first_position + i;
      if (sequence.request.logits_wanted != LogitsWanted::kNone && sequence.request.on_logits) {
        sequence.request.on_logits(position, row_logits);
        sequence.num_observed_tokens = position + 1;
      }
      const bool is_last = scheduled.reaches_end() && i == scheduled.num_tokens - 1;
      if (is_last && sequence.request.max_tokens > 0)
        next_tokens_[s] = sequence.sampler.sample(row_logits, position + 1);
    }
  }
}

}  // namespace quipu
