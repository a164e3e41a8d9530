#include "engine_run.h"

#include <algorithm>

#include "golden_case.h"

namespace quipu::golden {

bool same_outcome(const Outcome& a, const Outcome& b) {
  if (a.tokens != b.tokens || a.logits.empty()) return false;
  return std::ranges::equal(a.logits, b.logits, [](const auto& x, const auto& y) {
    return x.first == y.first && same_bits(x.second, y.second);
  });
}

EngineRun::EngineRun(Model& model, Backend& backend, const EngineConfig& config) {
  Result<std::unique_ptr<Engine>> engine = Engine::create(model, backend, config, clock_);
  QUIPU_CHECK(engine.ok(), "{}", engine.status().message());
  engine_ = std::move(engine).value();
}

void EngineRun::submit(Request request) {
  const int64_t id = request.id.value();
  outcomes_[id] = {};
  request.sampling.temperature = 0;
  request.on_logits = [this, id](int64_t position, std::span<const float> logits) {
    outcomes_[id].logits[position].assign(logits.begin(), logits.end());
  };
  const Status status = engine_->submit(std::move(request));
  QUIPU_CHECK(status.ok(), "{}", status.message());
}

void EngineRun::step() {
  clock_.advance_ns(1);
  for (const StepEvent& event : engine_->step()) {
    Outcome& outcome = outcomes_[event.id.value()];
    if (event.token.has_value()) outcome.tokens.push_back(*event.token);
    if (event.finish != FinishReason::kNone) outcome.stats = event.stats;
  }
  engine_->scheduler().check_invariants();
}

}  // namespace quipu::golden
