// Generation: text in, text deltas out, on the calling thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "app/assemble.h"
#include "app/generation_task.h"

namespace quipu {

// How long the parts of a request took. UNITS: ms, tokens per second.
struct GenerationTimings {
  explicit GenerationTimings(const RequestStats& stats) : stats_(stats) {}

  double prefill_ms() const {
    return elapsed_ms(stats_.started_ns.value_or(stats_.submitted_ns), prompt_end_ns());
  }
  double decode_ms() const { return elapsed_ms(prompt_end_ns(), stats_.finished_ns); }
  // Of the prompt and, for encoder-decoder models, of the encoder's input. UNITS: tokens.
  int64_t tokens_read() const { return stats_.prompt_tokens + stats_.input_tokens; }
  int64_t tokens_cached() const { return stats_.cached_tokens + stats_.cached_input_tokens; }
  // Of the tokens read that were computed, not found in the cache.
  double prefill_tokens_per_s() const;
  // The first output token comes out of the prompt's last logits, so it costs no decode step.
  double decode_tokens_per_s() const;

 private:
  int64_t prompt_end_ns() const { return stats_.first_token_ns.value_or(stats_.finished_ns); }

  RequestStats stats_;
};

struct GenerationResult {
  std::string text;
  std::vector<TokenId> prompt_ids, token_ids;
  FinishReason finish = FinishReason::kNone;
  RequestStats stats;
  uint64_t logits_hash = 0;  // GenerationTask::logits_hash()

  GenerationTimings timings() const { return GenerationTimings(stats); }
  double prefill_ms() const { return timings().prefill_ms(); }
  double decode_ms() const { return timings().decode_ms(); }
  int64_t tokens_read() const { return timings().tokens_read(); }
  int64_t tokens_cached() const { return timings().tokens_cached(); }
  double prefill_tokens_per_s() const { return timings().prefill_tokens_per_s(); }
  double decode_tokens_per_s() const { return timings().decode_tokens_per_s(); }
};

// Shows a piece of text, empty before each step that may show none; false cancels the request.
using TextSink = std::function<bool(std::string_view delta)>;

// Runs one request to its end on the calling thread (the engine thread).
// Without a tokenizer the text stays empty and token ids alone come out.
// ERRORS: as Engine::submit(); kResourceExhausted when a constraint could not go on.
Result<GenerationResult> generate(LoadedModel& model, std::vector<TokenId> prompt,
                                  const GenerationParams& params, const TextSink& sink);

}  // namespace quipu
