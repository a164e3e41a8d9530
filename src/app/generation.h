// Generation: text in, text deltas out. Encodes, runs the engine, decodes, and ends at stop
// strings.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/assemble.h"
#include "engine/request.h"

namespace quipu {

struct GenerationParams {
  SamplingParams sampling;
  int64_t max_tokens = 0;  // 0: only compute the prompt
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool skip_special = true;  // leave special tokens out of the text
  bool hash_logits = false;  // fill GenerationResult::logits_hash
  bool explain_cache = false;  // fill all of RequestStats::reuse
};

struct GenerationResult {
  std::string text;
  std::vector<TokenId> prompt_ids, token_ids;
  FinishReason finish = FinishReason::kNone;
  RequestStats stats;
  // XXH3-64 over the logits every output token was chosen from, in order; the same for any number
  // of threads, chunks and companions in the batch.
  uint64_t logits_hash = 0;

  double prefill_ms() const {
    return elapsed_ms(stats.started_ns.value_or(stats.submitted_ns), prompt_end_ns());
  }
  double decode_ms() const { return elapsed_ms(prompt_end_ns(), stats.finished_ns); }
  // Of the prompt and, for encoder-decoder models, of the encoder's input. UNITS: tokens.
  int64_t tokens_read() const { return stats.prompt_tokens + stats.input_tokens; }
  int64_t tokens_cached() const { return stats.cached_tokens + stats.cached_input_tokens; }
  double prefill_tokens_per_s() const;
  double decode_tokens_per_s() const;

 private:
  int64_t prompt_end_ns() const { return stats.first_token_ns.value_or(stats.finished_ns); }
};

// Shows a piece of text, empty before each step that may show none; false cancels the request.
using TextSink = std::function<bool(std::string_view delta)>;

// Runs one request to its end on the calling thread (the engine thread).
// Without a tokenizer the text stays empty and token ids alone come out. For an encoder-decoder
// model, `prompt` is what the encoder reads.
// ERRORS: as Engine::submit().
Result<GenerationResult> generate(LoadedModel& model, std::vector<TokenId> prompt,
                                  const GenerationParams& params, const TextSink& sink);

}  // namespace quipu
