// What to generate, how tokens are drawn, and a request that is under way.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <quipu/export.h>
#include <quipu/result.h>

namespace quipu::v1 {

using TokenId = std::int32_t;

// How the next token is chosen. Where nothing is given, the model's file says
// (ModelInfo::sampling), or else the command line's defaults hold.
struct SamplingParams {
  std::optional<float> temperature{};         // 0: always the likeliest token; default 0.8
  std::optional<int> top_k{};                 // 0: all; default 40
  std::optional<float> top_p{};               // default 0.95
  std::optional<float> min_p{};               // default 0.05
  std::optional<float> repetition_penalty{};  // default 1
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias{};
  std::optional<std::uint64_t> seed{};  // the same seed gives the same text; nothing: a new one
};

struct GenerationOptions {
  SamplingParams sampling{};
  std::int64_t max_tokens = 512;    // 0: only compute the prompt, so that its prefix is cached
  std::vector<std::string> stop{};  // the output ends before any of these
  bool ignore_eos = false;          // go on after the end-of-text token
  int priority = 0;                 // lower ones get a free place first
  // Log probabilities of each output token, and of so many of the likeliest in its place, from 0 to
  // kTopLogprobsMax; nothing: none.
  std::optional<int> top_logprobs{};
};

inline constexpr int kTopLogprobsMax = 20;

struct TokenLogprob {
  TokenId token = 0;
  float logprob =
      0;  // natural logarithm, of the model's distribution before any sampling parameter
};

// What an output token was chosen from.
struct TokenLogprobs {
  TokenLogprob chosen{};
  std::vector<TokenLogprob> top{};  // the likeliest first; of equal ones the lower id first
};

struct GenerationRequest {
  std::string prompt{};                  // control tokens written out in it become those tokens
  std::vector<TokenId> prompt_tokens{};  // instead of `prompt`, where it is not empty
  GenerationOptions options{};
  std::string cache_salt{};  // prefixes are shared within a salt only
};

enum class FinishReason {
  kStop,         // the end-of-text token, or a stop string
  kLength,       // max_tokens
  kContextFull,  // the context, or the KV cache, holds no more
  kCancelled,
};

// UNITS: tokens; ms.
struct GenerationResult {
  std::string text{};
  std::vector<TokenId> tokens{};          // of the output; those that spell a stop string too
  std::vector<TokenLogprobs> logprobs{};  // SHAPE: as tokens when asked for, else empty
  FinishReason finish = FinishReason::kStop;
  std::string stop_string{};  // the one that ended the output, if one did
  std::uint64_t seed = 0;     // that was used
  std::int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  double prefill_ms = 0, decode_ms = 0;
};

// What is new since the last piece. Text comes in whole characters and never holds a part of a
// stop string, so a piece may have tokens and no text.
struct GenerationPiece {
  std::string text{};
  std::vector<TokenId> tokens{};
  std::vector<TokenLogprobs> logprobs{};  // SHAPE: as tokens when asked for, else empty
};

// Called with each piece of text; false cancels the request.
using TextCallback = std::function<bool(std::string_view text)>;

namespace internal {
struct GenerationState;
}

// A request that is being computed. It goes on whether or not anybody reads it; destroying it
// cancels it, at once and without waiting.
// THREADS: one thread reads (next, finish); cancel() from any.
class QUIPU_API Generation {
 public:
  Generation(Generation&&) noexcept;
  Generation& operator=(Generation&&) noexcept;
  ~Generation();

  // Waits for what is new. Nothing: it has ended, and finish() returns at once.
  std::optional<GenerationPiece> next();

  // Ends it before the next step; what was computed stays cached.
  void cancel();

  // Waits for the end; the result holds all text, also that of earlier pieces.
  // ERRORS: kInvalidArgument (parameters out of range, a prompt that can never fit, with the
  // numbers; a token id outside the vocabulary), kInternal. REQUIRES: called once.
  Result<GenerationResult> finish();

 private:
  friend class Model;
  explicit Generation(std::shared_ptr<internal::GenerationState> state);

  std::shared_ptr<internal::GenerationState> state_;  // shared: with the engine's thread
};

}  // namespace quipu::v1
