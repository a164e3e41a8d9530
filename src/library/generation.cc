#include <quipu/generation.h>

#include "library/state.h"

namespace quipu::v1 {

namespace {

FinishReason to_public(quipu::FinishReason reason) {
  switch (reason) {
    case quipu::FinishReason::kStop: return FinishReason::kStop;
    case quipu::FinishReason::kLength: return FinishReason::kLength;
    case quipu::FinishReason::kContextFull: return FinishReason::kContextFull;
    case quipu::FinishReason::kNone:
    case quipu::FinishReason::kDeadline:    // the library sets none,
    case quipu::FinishReason::kConstraint:  // nor this
    case quipu::FinishReason::kCancelled: return FinishReason::kCancelled;
  }
  return FinishReason::kCancelled;
}

std::vector<TokenLogprobs> to_public(const std::vector<quipu::TokenLogprobs>& logprobs) {
  const auto one = [](const quipu::TokenLogprob& logprob) {
    return TokenLogprob{logprob.id, logprob.logprob};
  };
  std::vector<TokenLogprobs> result;
  for (const quipu::TokenLogprobs& token : logprobs) {
    result.push_back({.chosen = one(token.chosen), .top = {}});
    for (const quipu::TokenLogprob& other : token.top) result.back().top.push_back(one(other));
  }
  return result;
}

void note_end(const quipu::GenerationEnd& end, GenerationResult& result) {
  const quipu::GenerationTimings timings(end.stats);
  result.finish = to_public(end.finish);
  result.stop_string = end.stop_string;
  result.prompt_tokens = timings.tokens_read();
  result.cached_tokens = timings.tokens_cached();
  result.completion_tokens = end.stats.completion_tokens;
  result.prefill_ms = timings.prefill_ms();
  result.decode_ms = timings.decode_ms();
}

}  // namespace

Generation::Generation(std::shared_ptr<internal::GenerationState> state)
    : state_(std::move(state)) {}
Generation::Generation(Generation&&) noexcept = default;

Generation& Generation::operator=(Generation&& other) noexcept {
  if (this == &other) return *this;
  if (state_ != nullptr && !state_->end.has_value()) cancel();
  state_ = std::move(other.state_);
  return *this;
}

Generation::~Generation() {
  if (state_ != nullptr && !state_->end.has_value()) cancel();
}

void Generation::cancel() { state_->model->engine.cancel(state_->id); }

std::optional<GenerationPiece> Generation::next() {
  internal::GenerationState& state = *state_;
  while (!state.end.has_value()) {
    state.bell->wait();
    quipu::GenerationUpdate update = state.outbox->take();
    state.result.text += update.text;
    state.result.tokens.insert(state.result.tokens.end(), update.token_ids.begin(),
                               update.token_ids.end());
    std::vector<TokenLogprobs> logprobs = to_public(update.logprobs);
    state.result.logprobs.insert(state.result.logprobs.end(), logprobs.begin(), logprobs.end());
    if (update.end.has_value()) {
      state.end = std::move(update.end);
      note_end(*state.end, state.result);
    }
    if (!update.token_ids.empty() || !update.text.empty())
      return GenerationPiece{std::move(update.text), std::move(update.token_ids),
                             std::move(logprobs)};
  }
  return std::nullopt;
}

Result<GenerationResult> Generation::finish() {
  while (next().has_value()) {
  }
  if (!state_->end->status.ok()) return internal::to_error(state_->end->status);
  return std::move(state_->result);
}

}  // namespace quipu::v1
