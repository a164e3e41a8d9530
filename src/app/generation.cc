#include "app/generation.h"

#include <xxhash.h>

#include "app/stop_strings.h"
#include "text/stream_decoder.h"

namespace quipu {

namespace {

double per_second(int64_t tokens, double ms) {
  return ms > 0 && tokens > 0 ? static_cast<double>(tokens) * 1000 / ms : 0;
}

// The way from token ids to shown text of one request.
class TextOutput {
 public:
  TextOutput(const LoadedModel& model, const GenerationParams& params, const TextSink& sink)
      : stops_(params.stop), sink_(sink) {
    if (model.tokenizer != nullptr)
      decoder_.emplace(*model.tokenizer, StreamDecoder::Start::kContinuation,
                       DecodeOptions{.skip_special = params.skip_special});
  }

  // False when the output ends here: a stop string, or the sink wants no more.
  bool push(TokenId token) {
    if (!decoder_.has_value()) return true;
    return show(stops_.push(decoder_->push(token))) && !stops_.stopped();
  }

  void finish() {
    if (!decoder_.has_value() || stops_.stopped()) return;
    show(stops_.push(decoder_->finish()));
    show(stops_.finish());
  }

  bool stopped() const { return stops_.stopped(); }
  std::string take_text() { return std::move(text_); }

 private:
  bool show(const std::string& delta) {
    text_ += delta;
    return delta.empty() || !sink_ || sink_(delta);
  }

  std::optional<StreamDecoder> decoder_;
  StopStrings stops_;
  const TextSink& sink_;
  std::string text_;
};

Request make_request(const LoadedModel& model, std::vector<TokenId> prompt,
                     const GenerationParams& params) {
  Request request;
  request.id = RequestId(1);
  set_prompt(model.model->config(), std::move(prompt), request);
  request.sampling = params.sampling;
  request.max_tokens = params.max_tokens;
  request.explain_cache = params.explain_cache;
  if (model.tokenizer != nullptr && !params.ignore_eos)
    request.stop_tokens.assign(model.tokenizer->eos_ids().begin(),
                               model.tokenizer->eos_ids().end());
  return request;
}

}  // namespace

double GenerationResult::prefill_tokens_per_s() const {
  if (!stats.first_token_ns.has_value()) return 0;  // it ended before the prompt was computed
  return per_second(tokens_read() - tokens_cached(), prefill_ms());
}

// The first output token comes out of the prompt's last logits, so it costs no decode step.
double GenerationResult::decode_tokens_per_s() const {
  return per_second(stats.completion_tokens - 1, decode_ms());
}

Result<GenerationResult> generate(LoadedModel& model, std::vector<TokenId> prompt,
                                  const GenerationParams& params, const TextSink& sink) {
  GenerationResult result;
  Request request = make_request(model, std::move(prompt), params);
  const RequestId id = request.id;
  result.prompt_ids = request.prompt;
  if (params.hash_logits) {
    request.logits_wanted = LogitsWanted::kSampled;
    request.on_logits = [&result](int64_t, std::span<const float> logits) {
      result.logits_hash =
          XXH3_64bits_withSeed(logits.data(), logits.size_bytes(), result.logits_hash);
    };
  }
  QUIPU_RETURN_IF_ERROR(model.engine->submit(std::move(request)));
  TextOutput output(model, params, sink);
  while (result.finish == FinishReason::kNone) {
    bool go_on = !sink || sink({});  // before every step: a long prompt shows no text for a while
    for (const StepEvent& event : model.engine->step()) {
      if (event.id != id) continue;
      if (event.token.has_value() && !output.stopped()) {
        result.token_ids.push_back(*event.token);
        go_on = output.push(*event.token) && go_on;
      }
      if (event.finish != FinishReason::kNone) {
        result.finish = event.finish;
        result.stats = event.stats;
      }
    }
    // The last event of a cancelled request comes with the next step.
    if (!go_on && result.finish == FinishReason::kNone) model.engine->cancel(id);
  }
  output.finish();
  if (output.stopped()) result.finish = FinishReason::kStop;
  result.text = output.take_text();
  return result;
}

}  // namespace quipu
