// ModelRunner: turns a step's plan into flat arrays, runs the model, and hands out rows of logits.
// THREADS: engine thread only. A steady decode step allocates nothing: the arrays keep their room.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_storage.h"
#include "engine/scheduler.h"
#include "engine/statistics.h"
#include "model/model.h"

namespace quipu {

class ModelRunner {
 public:
  // `inputs`: the storage of encoded inputs; null for models without an encoder.
  // OWNS: nothing; `tier` may be null when no plan has stores or loads.
  ModelRunner(Model& model, Backend& backend, KvStorage& storage, KvStorage* inputs, KvTier* tier,
              const Clock& clock)
      : model_(model),
        backend_(backend),
        storage_(storage),
        inputs_(inputs),
        tier_(tier),
        clock_(clock),
        group_arrays_(storage.spec().groups.size()) {}

  // Does the plan's transfers, computes its tokens, shows wanted logits to their observers, and
  // samples.
  //
  // SHAPE: result: one token per planned sequence (kNoToken where none was chosen); valid until the
  // next run().
  std::span<const TokenId> run(const StepPlan& plan);
  const TransferStatistics& transfers() const { return transfers_; }
  // Of transfers, forward passes and sampling; the rest is the engine's.
  const StepPhases& phases() const { return phases_; }

 private:
  void run_transfers(const StepPlan& plan);
  void copy_blocks(std::span<const KvCopy> copies);
  void encode_inputs(const StepPlan& plan);
  void build_batch(const StepPlan& plan);
  void build_group(const StepPlan& plan, int group);
  void add_input_tables(const StepPlan& plan);
  void add_logit_rows(const ScheduledSequence& scheduled, int32_t first_row);
  void consume_logits(const StepPlan& plan, std::span<const float> logits);

  Model& model_;
  Backend& backend_;
  KvStorage& storage_;
  KvStorage* inputs_;
  KvTier* tier_;
  const Clock& clock_;
  TransferStatistics transfers_;
  StepPhases phases_;

  // Where the tokens lie in one stream group. SHAPE: as in GroupBatch.
  struct GroupArrays {
    std::vector<int64_t> slot_mapping;
    std::vector<int32_t> block_tables, block_gaps;
    size_t block_table_stride = 0;
  };

  // The batch, flat. SHAPE: as in ForwardBatch.
  std::vector<int32_t> token_ids_, positions_, query_start_, logit_rows_;
  std::vector<GroupArrays> group_arrays_;  // SHAPE: [groups]
  std::vector<GroupBatch> groups_;         // views of them
  std::vector<BlockCopy> copies_;          // of one group
  std::vector<int32_t> input_blocks_;      // of one input
  std::vector<int32_t> input_block_tables_, input_lengths_;
  size_t input_block_table_stride_ = 0;
  std::vector<TokenId> next_tokens_;
};

}  // namespace quipu
