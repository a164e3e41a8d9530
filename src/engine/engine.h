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

// Streaming: layers that see everything see the first `sinks` tokens and the last `window` instead,
// so that a sequence may go on past the trained context in constant memory. Layers that have a
// window anyway see no more than `window`, and no sinks. Never on by itself.
struct StreamingConfig {
  int64_t window = 0;  // UNITS: tokens; 0: off
  int64_t sinks = 0;   // UNITS: tokens

  bool is_on() const { return window > 0; }
};

struct EngineConfig {
  int64_t context_length = 0;  // 0: what the model was loaded for; with streaming kStreamedTokensMax
  KvFormats kv_format = KvFormat::kBF16;
  int block_tokens = kDefaultBlockTokens;
  uint64_t kv_bytes = 0;  // REQUIRES: at least one block; app/ chooses and says it
  // Encoder-decoder models: for encoded inputs, beside kv_bytes. 0: as much as kv_bytes.
  uint64_t input_kv_bytes = 0;
  int prefill_chunk_max = 512;
  int sequences_max = 64;
  double decode_stretch_max = 0;   // SchedulerConfig::decode_stretch_max
  int draft_tokens_max = 0;        // SchedulerConfig::draft_tokens_max
  int forced_tokens_max = 0;       // SchedulerConfig::forced_tokens_max
  bool keep_kv = true;             // SchedulerConfig::keep_kv
  std::string kv_policy = "reuse";  // of eviction: one of kEvictionPolicyNames
  KvTier* tier = nullptr;  // below the pools; must outlive the engine, and may be shared by no other
  std::string fingerprint;         // of the model; with the KV formats, part of every block's key
  StreamingConfig streaming;
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
  // The last step computed nothing: there was no work, or all of it waits for a tier, which needs
  // time rather than another step at once.
  bool is_idle() const { return plan_.empty(); }

  EngineStatistics statistics() const;

  const Scheduler& scheduler() const { return scheduler_; }
  Scheduler& scheduler() { return scheduler_; }
  const KvStorage& kv() const { return storage_; }
  // Where encoded inputs lie; null for models without an encoder.
  const KvStorage* input_kv() const { return input_storage_.get(); }
  const Model& model() const { return model_; }
  bool is_streaming() const { return is_streaming_; }

 private:
  Engine(Model& model, Backend& backend, KvStorage storage,
         std::unique_ptr<KvStorage> input_storage, const SchedulerConfig& config,
         const KvCacheConfig& cache, bool is_streaming, const Clock& clock);
  void measure(const StepPlan& plan, const TransferStatistics& before, int64_t begin_ns);

  Model& model_;
  const Clock& clock_;
  bool is_streaming_;
  KvStorage storage_;
  std::unique_ptr<KvStorage> input_storage_;
  Scheduler scheduler_;
  ModelRunner runner_;
  StepPlan plan_;
  std::vector<StepEvent> events_;
  StepPhases phases_;  // but for what the runner measures
  int64_t steps_ = 0;
};

// The most tokens of a streamed sequence: positions are 32-bit numbers. UNITS: tokens.
inline constexpr int64_t kStreamedTokensMax = (int64_t{1} << 31) - (int64_t{1} << 20);

// Whether a model can be streamed like that. ERRORS: kInvalidArgument with the numbers and what to
// do: positions other than rotary, a window and sinks larger than the trained context, sinks out of
// range or without a window.
Status check_streaming(const ModelConfig& config, const StreamingConfig& streaming);

// The cache's spec for a model. UNITS: bytes inside. REQUIRES: check_streaming() and
// formats.check() are ok for the model.
KvCacheSpec kv_cache_spec_for(const ModelConfig& config, const KvFormats& formats,
                              int block_tokens, const StreamingConfig& streaming = {});
// The same for encoded inputs: what cross-attention of all decoder layers reads of a token.
// REQUIRES: config.encoder_decoder.
KvCacheSpec input_kv_spec_for(const ModelConfig& config, const KvFormats& formats,
                              int block_tokens);

}  // namespace quipu
