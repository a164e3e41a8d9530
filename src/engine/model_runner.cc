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
  const int64_t begin_ns = clock_.now_ns();
  run_transfers(plan);
  const int64_t moved_ns = clock_.now_ns();
  phases_.transfer_ns += moved_ns - begin_ns;
  next_tokens_.clear();
  if (plan.sequences.empty()) return next_tokens_;
  encode_inputs(plan);
  build_batch(plan);
  ForwardBatch batch = {.token_ids = token_ids_,
                        .positions = positions_,
                        .query_start = query_start_,
                        .groups = groups_,
                        .logit_rows = logit_rows_};
  if (inputs_ != nullptr) {
    add_input_tables(plan);
    batch.inputs = {.kv = inputs_->view().groups.front().kv,
                    .block_tables = input_block_tables_,
                    .block_table_stride = input_block_table_stride_,
                    .lengths = input_lengths_};
  }
  const std::span<const float> logits = model_.forward(batch, storage_.view());
  const int64_t computed_ns = clock_.now_ns();
  phases_.forward_ns += computed_ns - moved_ns;
  consume_logits(plan, logits);
  phases_.sample_ns += clock_.now_ns() - computed_ns;
  return next_tokens_;
}

// Stores first, loads last: kv/transfer.h says why.
void ModelRunner::run_transfers(const StepPlan& plan) {
  if (!plan.stores.empty()) {
    backend_.synchronise();  // what earlier steps wrote is there
    const int64_t begin_ns = clock_.now_ns();
    for (const KvStore& store : plan.stores) {
      const std::span<const std::byte> bytes = storage_.block(store.group, store.block);
      tier_->store(store.key, bytes, storage_.element_bytes(store.group));
      transfers_.bytes_stored += bytes.size();
    }
    transfers_.store_ns += clock_.now_ns() - begin_ns;
  }
  if (!plan.copies.empty()) copy_blocks(plan.copies);
  if (!plan.loads.empty()) {
    backend_.synchronise();  // the copies have read what the loads overwrite
    const int64_t begin_ns = clock_.now_ns();
    for (const KvLoad& load : plan.loads) {
      const std::span<std::byte> bytes = storage_.block(load.group, load.block);
      tier_->load(load.transfer, load.key, bytes);
      transfers_.bytes_restored += bytes.size();
    }
    transfers_.restore_ns += clock_.now_ns() - begin_ns;
  }
}

void ModelRunner::copy_blocks(std::span<const KvCopy> copies) {
  const std::span<const KvGroupView> views = storage_.view().groups;
  for (size_t group = 0; group < views.size(); ++group) {
    copies_.clear();
    for (const KvCopy& copy : copies) {
      if (copy.group == static_cast<int>(group)) copies_.push_back({copy.from, copy.to});
    }
    if (!copies_.empty()) backend_.copy_blocks(views[group].kv, copies_);
  }
}

void ModelRunner::encode_inputs(const StepPlan& plan) {
  for (const EncodeTask& task : plan.encodes) {
    input_blocks_.clear();
    for (const BlockId block : task.blocks)
      input_blocks_.push_back(static_cast<int32_t>(block.value()));
    model_.encode({.token_ids = task.input, .block_table = input_blocks_},
                  inputs_->view().groups.front().kv);
  }
}

// Where each sequence of the batch finds its encoded input.
void ModelRunner::add_input_tables(const StepPlan& plan) {
  input_lengths_.clear();
  input_block_table_stride_ = 0;
  for (const ScheduledSequence& scheduled : plan.sequences) {
    input_block_table_stride_ =
        std::max(input_block_table_stride_, scheduled.sequence->encoding.blocks().size());
  }
  input_block_tables_.assign(input_block_table_stride_ * plan.sequences.size(), -1);
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const EncodingRef& encoding = plan.sequences[s].sequence->encoding;
    input_lengths_.push_back(static_cast<int32_t>(encoding.num_tokens()));
    for (size_t b = 0; b < encoding.blocks().size(); ++b) {
      input_block_tables_[s * input_block_table_stride_ + b] = encoding.blocks()[b].id().value();
    }
  }
}

void ModelRunner::build_batch(const StepPlan& plan) {
  for (auto* array : {&token_ids_, &positions_, &query_start_, &logit_rows_}) array->clear();
  query_start_.push_back(0);
  for (const ScheduledSequence& scheduled : plan.sequences) {
    const auto first_row = static_cast<int32_t>(token_ids_.size());
    for (int i = 0; i < scheduled.num_computed(); ++i) {
      token_ids_.push_back(scheduled.token(i));
      positions_.push_back(static_cast<int32_t>(scheduled.first_position + i));
    }
    add_logit_rows(scheduled, first_row);
    query_start_.push_back(static_cast<int32_t>(token_ids_.size()));
  }
  groups_.clear();
  for (int group = 0; group < static_cast<int>(group_arrays_.size()); ++group)
    build_group(plan, group);
}

void ModelRunner::build_group(const StepPlan& plan, int group) {
  GroupArrays& arrays = group_arrays_[static_cast<size_t>(group)];
  const KvGroupSpec& spec = storage_.spec().groups[static_cast<size_t>(group)];
  const auto table_of = [&](const ScheduledSequence& scheduled) -> const BlockTable& {
    return scheduled.sequence->kv.tables[static_cast<size_t>(group)];
  };
  arrays.slot_mapping.clear();
  arrays.block_gaps.clear();
  arrays.block_table_stride = 0;
  for (const ScheduledSequence& scheduled : plan.sequences) {
    arrays.block_table_stride =
        std::max(arrays.block_table_stride, static_cast<size_t>(table_of(scheduled).num_blocks()));
  }
  // Room for the longest sequences, so that a growing one allocates nothing.
  const int64_t longest = blocks_held_max(
      spec.lifetime, spec.block_tokens, model_.config().context_length, model_.batch_tokens_max());
  arrays.block_tables.reserve(
      static_cast<size_t>(std::min<int64_t>(longest, storage_.blocks(group))) *
      plan.sequences.size());
  arrays.block_tables.assign(arrays.block_table_stride * plan.sequences.size(), -1);
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const ScheduledSequence& scheduled = plan.sequences[s];
    const BlockTable& table = table_of(scheduled);
    for (int i = 0; i < scheduled.num_computed(); ++i)
      arrays.slot_mapping.push_back(table.slot(scheduled.first_position + i));
    for (int column = 0; column < table.num_blocks(); ++column) {
      arrays.block_tables[s * arrays.block_table_stride + static_cast<size_t>(column)] =
          table.column(column).value();
    }
    if (spec.lifetime.is_windowed()) arrays.block_gaps.push_back(table.gap());
  }
  groups_.push_back({.slot_mapping = arrays.slot_mapping,
                     .block_tables = arrays.block_tables,
                     .block_table_stride = arrays.block_table_stride,
                     .block_gaps = arrays.block_gaps});
}

void ModelRunner::add_logit_rows(const ScheduledSequence& scheduled, int32_t first_row) {
  for (int i = first_logit_token(scheduled); i < scheduled.num_computed(); ++i)
    logit_rows_.push_back(first_row + i);
}

void ModelRunner::consume_logits(const StepPlan& plan, std::span<const float> logits) {
  const size_t vocab = static_cast<size_t>(model_.config().vocab_size);
  next_tokens_.clear();
  size_t row = 0;
  for (const ScheduledSequence& scheduled : plan.sequences) {
    Sequence& sequence = *scheduled.sequence;
    const size_t first_token = next_tokens_.size();
    next_tokens_.resize(first_token + 1 + static_cast<size_t>(scheduled.num_drafts), kNoToken);
    bool has_followed = true;  // the drafts so far are what the sampler chose
    for (int i = first_logit_token(scheduled); i < scheduled.num_computed(); ++i, ++row) {
      if (!has_followed) continue;
      const std::span<const float> row_logits = logits.subspan(row * vocab, vocab);
      const int64_t position = scheduled.first_position + i;
      if (sequence.request.logits_wanted != LogitsWanted::kNone && sequence.request.on_logits) {
        sequence.request.on_logits(position, row_logits);
        sequence.num_observed_tokens = position + 1;
      }
      const int draft = i - scheduled.num_tokens + 1;  // drafts before this row
      if (!scheduled.reaches_end() || draft < 0 || sequence.request.max_tokens == 0) continue;
      const TokenId next = sequence.sampler.sample(row_logits, position + 1);
      next_tokens_[first_token + static_cast<size_t>(draft)] = next;
      if (next != kNoToken) sequence.sampler.accept(next);
      has_followed = draft < scheduled.num_drafts &&
                     next == sequence.draft[static_cast<size_t>(draft)] &&
                     !sequence.sampler.is_complete();
    }
  }
}

}  // namespace quipu
