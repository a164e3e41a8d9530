#include "app/generation.h"

namespace quipu {

namespace {

double per_second(int64_t tokens, double ms) {
  return ms > 0 && tokens > 0 ? static_cast<double>(tokens) * 1000 / ms : 0;
}

}  // namespace

double GenerationTimings::prefill_tokens_per_s() const {
  if (!stats_.first_token_ns.has_value()) return 0;  // it ended before the prompt was computed
  return per_second(tokens_read() - tokens_cached(), prefill_ms());
}

double GenerationTimings::decode_tokens_per_s() const {
  return per_second(stats_.completion_tokens - 1, decode_ms());
}

Result<GenerationResult> generate(LoadedModel& model, std::vector<TokenId> prompt,
                                  const GenerationParams& params, const TextSink& sink) {
  GenerationTask task(model, RequestId(1), params);
  Result<Request> request = task.make_request(std::move(prompt));
  if (!request.ok()) return request.status();
  std::vector<TokenId> prompt_ids = request->prompt;
  QUIPU_RETURN_IF_ERROR(model.engine->submit(std::move(*request)));
  GenerationUpdate all;
  while (!task.ended()) {
    bool go_on = !sink || sink({});  // before every step: a long prompt shows no text for a while
    for (const StepEvent& event : model.engine->step()) {
      if (event.id != task.id()) continue;
      GenerationUpdate update;
      task.take(event, update);
      if (sink && !update.text.empty()) go_on = sink(update.text) && go_on;
      all.append(std::move(update));
    }
    // The last event of a cancelled request comes with the next step.
    if ((!go_on || task.wants_cancel()) && !task.ended()) model.engine->cancel(task.id());
  }
  QUIPU_RETURN_IF_ERROR(all.end->status);
  return GenerationResult{.text = std::move(all.text),
                          .prompt_ids = std::move(prompt_ids),
                          .token_ids = std::move(all.token_ids),
                          .finish = all.end->finish,
                          .stats = all.end->stats,
                          .logits_hash = task.logits_hash()};
}

}  // namespace quipu
