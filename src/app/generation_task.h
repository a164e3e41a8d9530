// GenerationTask: one request between text and the engine. It makes the engine's Request, and turns
// the engine's events into text that may be shown: whole characters, nothing of a stop string,
// nothing after one. `run`, `chat` and the server all come through here.
//
// THREADS: engine thread only; updates are plain values that may go anywhere.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/assemble.h"
#include "app/stop_strings.h"
#include "engine/request.h"
#include "text/constraint.h"
#include "text/output_parser.h"
#include "text/stream_decoder.h"

namespace quipu {

struct GenerationParams {
  SamplingParams sampling;
  int64_t max_tokens = 0;  // 0: only compute the prompt
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool skip_special = true;  // leave special tokens out of the text
  bool hash_logits = false;  // fill GenerationTask::logits_hash()
  std::optional<int>
      top_logprobs;              // log probabilities of each output token, and of the N likeliest
  bool report_progress = false;  // updates while the prompt is computed (EngineThread)
  bool explain_cache = false;    // fill all of RequestStats::reuse,
  std::string explain_salts;     // from salts that begin like this
  std::string cache_salt;        // prefixes are shared within a salt only
  // What the output may be; null for anything. Shared by the choices of a request: each follows a
  // copy of its own.
  std::shared_ptr<const Constraint> constraint;
  // What the output is made of, to be told apart (GenerationUpdate::pieces); absent: text alone.
  // REQUIRES: skip_special.
  std::optional<OutputLayout> layout;
};

struct TokenLogprob {
  TokenId id = 0;
  float logprob =
      0;  // natural logarithm, of the model's distribution before any sampling parameter
};

struct TokenLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // the likeliest first; ties: the lower id first
};

// How far the prompt is. UNITS: tokens; `processed` counts the cached ones too.
struct PromptProgress {
  int64_t total = 0, cached = 0, processed = 0;
  double elapsed_ms = 0;
};

struct GenerationEnd {
  // Not ok: the engine refused the request, and nothing was computed; or, with kConstraint, the
  // constraint could not go on, and the output so far is no more than a beginning.
  Status status;
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;  // the one that ended the output, if one did
  int64_t thinking_tokens = 0;  // of the output, with a layout
  RequestStats stats;
};

// What is new about a request since the last update.
struct GenerationUpdate {
  bool started = false;  // the engine took it: it can no longer be refused
  std::optional<PromptProgress> progress;
  std::string text;
  std::vector<OutputPiece> pieces;  // with a layout: the text, told apart
  std::vector<TokenId> token_ids;
  std::vector<TokenLogprobs> logprobs;  // SHAPE: as token_ids when asked for, else empty
  std::optional<GenerationEnd> end;

  bool empty() const {
    return !started && !progress.has_value() && text.empty() && pieces.empty() &&
           token_ids.empty() && !end.has_value();
  }
  // Joins what came after this one.
  void append(GenerationUpdate&& later);
};

class GenerationTask {
 public:
  // OWNS: keeps references to the model's tokenizer and configuration. Without a tokenizer the text
  // stays empty.
  GenerationTask(const LoadedModel& model, RequestId id, const GenerationParams& params);
  GenerationTask(const GenerationTask&) = delete;
  GenerationTask& operator=(const GenerationTask&) = delete;

  RequestId id() const { return id_; }
  const GenerationParams& params() const { return params_; }

  // The engine's form of the request: `prompt` goes where the model takes it (set_prompt). It
  // refers to this task, which must outlive it. ERRORS: kInternal, of the constraint's copy.
  Result<Request> make_request(std::vector<TokenId> prompt);

  // Adds what an event of this request brings. REQUIRES: not ended.
  void take(const StepEvent& event, GenerationUpdate& update);

  // A stop string was met, but the engine goes on: the caller cancels the request.
  bool wants_cancel() const { return stops_.stopped() && !ended_; }
  bool ended() const { return ended_; }

  // XXH3-64 over the logits every output token was chosen from, in order; the same for any number
  // of threads, chunks and companions in the batch.
  uint64_t logits_hash() const { return logits_hash_; }

 private:
  void observe(std::span<const float> logits);
  std::string text_of(TokenId token);
  TokenLogprobs logprobs_of(TokenId chosen, std::span<const float> row) const;

  RequestId id_;
  GenerationParams params_;
  const ModelConfig& config_;
  const Tokenizer* tokenizer_ = nullptr;
  std::vector<TokenId> stop_tokens_;
  std::optional<StreamDecoder> decoder_;
  std::optional<OutputParser> parser_;
  OutputMarks control_marks_;  // of the layout; those without a token are never met
  int64_t thinking_tokens_ = 0;
  StopStrings stops_;
  bool ended_ = false;
  uint64_t logits_hash_ = 0;
  // Copies of the rows that output tokens come from, when log probabilities are asked for: a step
  // with drafts that came true has several rows, and tells their tokens afterwards, in order.
  std::deque<std::vector<float>> rows_;
};

}  // namespace quipu
