// The cache, a tier and the model without a scheduler: the test says what is computed, cut, split,
// evicted and brought back, and when.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/model_runner.h"
#include "tiny_engine.h"

namespace quipu::exactness {

struct BareSettings {
  KvFormats format;
  std::vector<int64_t> blocks;  // SHAPE: [groups], or more than those
  int block_tokens = 16;
  KvTier* tier = nullptr;
};

class BareEngine {
 public:
  BareEngine(TinyModel& model, const BareSettings& settings);

  // A sequence that begins from what the cache has of all its tokens but the last.
  std::unique_ptr<Sequence> start(std::vector<TokenId> tokens);
  // Lets it begin again, after a release.
  void restart(Sequence& sequence);
  // Starts one with everything that `source` has computed. SHAPE: tokens: at least those.
  std::unique_ptr<Sequence> fork(const Sequence& source, std::vector<TokenId> tokens);
  // Goes back to `count` tokens, or fewer, and on with `more`.
  void regrow(Sequence& sequence, int64_t count, std::span<const TokenId> more);
  void release(Sequence& sequence);

  struct Share {
    Sequence* sequence = nullptr;
    int tokens = 0;  // at most
  };
  // One step for all of these. SHAPE: shares with nothing to compute are left out.
  void step(std::span<const Share> shares);
  // Computes what is missing, `chunk` tokens at a time. Result: logits of the last token.
  const std::vector<float>& finish(Sequence& sequence, int chunk);
  // SHAPE: [vocab_size], of the last token that was computed as a sequence's last.
  const std::vector<float>& logits(const Sequence& sequence) const {
    return logits_.at(&sequence);
  }

  // Everything that nobody holds goes: to the tier where there is one, or away.
  void evict_all();
  // Brings back from the tier what `sequence` can begin with. Result: tokens that begin() will find.
  // REQUIRES: it holds nothing.
  int64_t promote(const Sequence& sequence);

  KvCache& cache() { return cache_; }

 private:
  static KvStorage make_storage(TinyModel& model, const BareSettings& settings);
  KvCacheConfig cache_config(const BareSettings& settings) const;
  std::unique_ptr<Sequence> make(std::vector<TokenId> tokens);
  void encode(Sequence& sequence);
  void move_blocks();

  const ModelConfig& config_;
  FakeClock clock_;
  KvStorage storage_;
  KvCache cache_;
  std::unique_ptr<KvStorage> input_storage_;  // of encoder-decoder models, as is inputs_
  std::unique_ptr<EncodingCache> inputs_;
  ModelRunner runner_;
  StepPlan plan_;
  std::map<const Sequence*, std::vector<float>> logits_;
};

}  // namespace quipu::exactness
