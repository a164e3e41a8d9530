// An engine over one model and a clock that stands still, and what came out of it: what the golden
// tests of decoders and of encoder-decoder models run.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"

namespace quipu::golden {

struct Outcome {
  std::vector<TokenId> tokens;
  std::map<int64_t, std::vector<float>> logits;  // by position. SHAPE: [vocab_size]
  RequestStats stats;
};

// Whether tokens and logits are the same bits. Without logits nothing is the same.
bool same_outcome(const Outcome& a, const Outcome& b);

class EngineRun {
 public:
  EngineRun(Model& model, Backend& backend, const EngineConfig& config);

  // Greedy, with its logits kept. REQUIRES: `request.logits_wanted` is not kNone; the engine takes
  // it.
  void submit(Request request);
  void step();
  void finish() {
    while (engine_->has_work()) step();
  }

  const Outcome& outcome(int64_t id) const { return outcomes_.at(id); }
  const std::map<int64_t, Outcome>& outcomes() const { return outcomes_; }
  Engine& engine() { return *engine_; }

 private:
  FakeClock clock_;
  std::unique_ptr<Engine> engine_;
  std::map<int64_t, Outcome> outcomes_;
};

}  // namespace quipu::golden
