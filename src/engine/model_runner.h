// ModelRunner: turns a step's plan into flat arrays, runs the model, and hands out rows of logits.
// THREADS: engine thread only. A steady decode step allocates nothing: the arrays keep their room.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_storage.h"
#include "engine/scheduler.h"
#include "model/model.h"

namespace quipu {

class ModelRunner {
 public:
  ModelRunner(Model& model, Backend& backend, KvStorage& storage)
      : model_(model), backend_(backend), storage_(storage) {}

  // Copies blocks, computes the plan's tokens, shows wanted logits to their observers, and samples.
  // SHAPE: result: one token per planned sequence (0 where none was chosen); valid until the next
  // run().
  std::span<const TokenId> run(const StepPlan& plan);

 private:
  size_t blocks_per_sequence_max() const;
  void build_batch(const StepPlan& plan);
  void add_logit_rows(const ScheduledSequence& scheduled, int32_t first_row);
  void consume_logits(const StepPlan& plan, std::span<const float> logits);

  Model& model_;
  Backend& backend_;
  KvStorage& storage_;

  // The batch, flat. SHAPE: as in ForwardBatch.
  std::vector<int32_t> token_ids_, positions_, query_start_, block_tables_, logit_rows_;
  std::vector<int64_t> slot_mapping_;
  size_t block_table_stride_ = 0;
  std::vector<TokenId> next_tokens_;
};

}  // namespace quipu
