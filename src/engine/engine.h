// Engine: requests in, token events out, one step at a time.
//
//   submit() -> [ plan -> copies -> forward -> sample -> commit ] -> events
//
// Every accepted request ends with exactly one event whose `finish` is set. The engine knows token
// ids only; text, templates and stop strings live in app/.
// THREADS: one thread, the engine thread, calls everything here.
#pragma once

#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "engine/kv_storage.h"
#include "engine/model_runner.h"
#include "engine/scheduler.h"
#include "engine/statistics.h"
#include "model/model.h"

namespace quipu {

struct EngineConfig {
  int64_t context_length = 0;  // 0: what the model was loaded for
  KvFormats kv_format = KvFormat::kBF16;
  int block_tokens = kDefaultBlockTokens;
  uint64_t kv_bytes = 0;  // REQUIRES: at least one block; app/ chooses and says it
  // Encoder-decoder models: for encoded inputs, beside kv_bytes. 0: as much as kv_bytes.
  uint64_t input_kv_bytes = 0;
  int prefill_chunk_max = 512;
  int sequences_max = 64;
  bool keep_kv = true;             // SchedulerConfig::keep_kv
  std::string kv_policy = "reuse";  // of eviction: one of kEvictionPolicyNames
  KvTier* tier = nullptr;  // below the pools; must outlive the engine, and may be shared by no other
  std::string fingerprint;         // of the model; with the KV formats, part of every block's key
};

class Engine {
 public:
  // OWNS: nothing given; model, backend and clock must outlive the engine.
  // ERRORS: kInvalidArgument (context, memory or a KV format's layer out of range, with the numbers),
  // kResourceExhausted.
  static Result<std::unique_ptr<Engine>> create(Model& model, Backend& backend,
                                                const EngineConfig& config, const Clock& clock);

  // ERRORS: as Scheduler::submit(); also kInvalidArgument for a token id outside the vocabulary.
  Status submit(Request request);
  bool cancel(RequestId id) { return scheduler_.cancel(id); }
  bool has_work() const { return scheduler_.has_work(); }

  // Computes one step. SHAPE: result: what happened, valid until the next step().
  std::span<const StepEvent> step();

  EngineStatistics statistics() const;

  const Scheduler& scheduler() const { return scheduler_; }
  Scheduler& scheduler() { return scheduler_; }
  const KvStorage& kv() const { return storage_; }
  // Where encoded inputs lie; null for models without an encoder.
  const KvStorage* input_kv() const { return input_storage_.get(); }
  const Model& model() const { return model_; }

 private:
  Engine(Model& model, Backend& backend, KvStorage storage,
         std::unique_ptr<KvStorage> input_storage, const SchedulerConfig& config,
         const KvCacheConfig& cache, const Clock& clock);
  void measure(const StepPlan& plan, const TransferStatistics& before, int64_t begin_ns);

  Model& model_;
  const Clock& clock_;
  KvStorage storage_;
  std::unique_ptr<KvStorage> input_storage_;
  Scheduler scheduler_;
  ModelRunner runner_;
  StepPlan plan_;
  std::vector<StepEvent> events_;
};

// The cache's spec for a model. UNITS: bytes inside. REQUIRES: formats.check() is ok for the model.
KvCacheSpec kv_cache_spec_for(const ModelConfig& config, const KvFormats& formats,
                              int block_tokens);
// The same for encoded inputs: what cross-attention of all decoder layers reads of a token.
// REQUIRES: config.encoder_decoder.
KvCacheSpec input_kv_spec_for(const ModelConfig& config, const KvFormats& formats,
                              int block_tokens);

}  // namespace quipu
