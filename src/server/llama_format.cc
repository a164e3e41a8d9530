// The replies of /completion, as llama.cpp's server gives them.
#include <algorithm>

#include "app/generation.h"
#include "server/reply_format.h"

namespace quipu {

namespace {

const char* stop_type(const GenerationEnd& end) {
  if (!end.stop_string.empty()) return "word";
  if (end.finish == FinishReason::kStop) return "eos";
  return end.finish == FinishReason::kCancelled ? "none" : "limit";
}

Json timings_to_json(const RequestStats& stats) {
  const GenerationTimings timings(stats);
  const int64_t computed = stats.prompt_tokens - stats.cached_tokens;
  const auto per_token = [](double ms, int64_t tokens) {
    return tokens > 0 ? ms / static_cast<double>(tokens) : 0;
  };
  Json shown = {{"cache_n", stats.cached_tokens},
                {"prompt_n", computed},
                {"prompt_ms", timings.prefill_ms()},
                {"prompt_per_token_ms", per_token(timings.prefill_ms(), computed)},
                {"prompt_per_second", timings.prefill_tokens_per_s()},
                {"predicted_n", stats.completion_tokens},
                {"predicted_ms", timings.decode_ms()},
                {"predicted_per_token_ms", per_token(timings.decode_ms(), stats.completion_tokens)},
                {"predicted_per_second", timings.decode_tokens_per_s()}};
  if (stats.drafts_proposed > 0) {
    shown["draft_n"] = stats.drafts_proposed;
    shown["draft_n_accepted"] = stats.drafts_accepted;
  }
  return shown;
}

class LlamaFormat : public ReplyFormat {
 public:
  explicit LlamaFormat(ReplyContext context) : context_(std::move(context)) {}

  void add_update(const Choice& choice, const GenerationUpdate& update,
                  std::string& events) override {
    const bool has_output = !update.text.empty() || !update.token_ids.empty();
    if (!update.progress.has_value() && !has_output && !update.end.has_value()) return;
    Json chunk = {
        {"index", choice.index},
        {"content", update.text},
        {"tokens", tokens(update)},
        {"stop", false},
        {"id_slot", -1},
        {"tokens_predicted", choice.tokens_sent + static_cast<int64_t>(update.token_ids.size())},
        {"tokens_evaluated", prompt_tokens()}};
    if (update.progress.has_value()) {
      chunk["prompt_progress"] = {{"total", update.progress->total},
                                  {"cache", update.progress->cached},
                                  {"processed", update.progress->processed},
                                  {"time_ms", update.progress->elapsed_ms}};
    }
    if (!update.logprobs.empty()) chunk["completion_probabilities"] = probabilities(update);
    if (update.end.has_value()) add_outcome(*update.end, chunk);
    add_event(chunk, events);
  }

  void add_end(const std::vector<Choice>&, std::string&) override {}

  void add_error(const ApiError& error, std::string& events) override {
    add_event(error_to_json(error), events);
  }

  Json whole(const std::vector<Choice>& choices) override {
    const Choice& choice = choices.front();
    Json reply = {{"index", choice.index},
                  {"content", choice.all.text},
                  {"tokens", tokens(choice.all)},
                  {"id_slot", -1}};
    if (!choice.all.logprobs.empty()) reply["completion_probabilities"] = probabilities(choice.all);
    add_outcome(*choice.all.end, reply);
    return reply;
  }

 private:
  int64_t prompt_tokens() const {
    return static_cast<int64_t>(context_.spec->prompts.front().tokens.size());
  }

  Json tokens(const GenerationUpdate& update) const {
    return context_.spec->return_tokens ? Json(update.token_ids) : Json::array();
  }

  Json probability(const TokenLogprob& logprob) const {
    const std::string_view piece = context_.model.tokenizer().piece(logprob.id);
    Json bytes = Json::array();
    for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
    return {{"id", logprob.id},
            {"token", std::string(piece)},
            {"bytes", std::move(bytes)},
            {"logprob", std::max(logprob.logprob, -9999.0f)}};
  }

  Json probabilities(const GenerationUpdate& update) const {
    Json all = Json::array();
    for (const TokenLogprobs& token : update.logprobs) {
      Json entry = probability(token.chosen);
      entry["top_logprobs"] = Json::array();
      for (const TokenLogprob& other : token.top)
        entry["top_logprobs"].push_back(probability(other));
      all.push_back(std::move(entry));
    }
    return all;
  }

  Json settings() const {
    const GenerationParams& params = context_.spec->params;
    const SamplingParams& sampling = params.sampling;
    return {{"n_predict", params.max_tokens},
            {"seed", sampling.seed},
            {"temperature", sampling.temperature},
            {"top_k", sampling.top_k},
            {"top_p", sampling.top_p},
            {"min_p", sampling.min_p},
            {"repeat_penalty", sampling.repetition_penalty},
            {"presence_penalty", sampling.presence_penalty},
            {"frequency_penalty", sampling.frequency_penalty},
            {"stop", params.stop},
            {"ignore_eos", params.ignore_eos},
            {"stream", context_.spec->stream}};
  }

  void add_outcome(const GenerationEnd& end, Json& reply) const {
    reply["stop"] = true;
    reply["model"] = context_.model.name();
    reply["tokens_predicted"] = end.stats.completion_tokens;
    reply["tokens_evaluated"] = end.stats.prompt_tokens;
    reply["tokens_cached"] = end.stats.prompt_tokens + end.stats.completion_tokens;
    reply["generation_settings"] = settings();
    reply["prompt"] = context_.spec->prompts.front().text;
    reply["truncated"] = end.finish == FinishReason::kContextFull;
    reply["stop_type"] = stop_type(end);
    reply["stopping_word"] = end.stop_string;
    reply["timings"] = timings_to_json(end.stats);
  }

  const ReplyContext context_;
};

}  // namespace

std::unique_ptr<ReplyFormat> make_llama_format(ReplyContext context) {
  return std::make_unique<LlamaFormat>(std::move(context));
}

}  // namespace quipu
