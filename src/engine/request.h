// Request: what a caller asks for, immutable once submitted. Token ids only; text lives above.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/strong_id.h"
#include "kv/explanation.h"
#include "kv/prefix_index.h"
#include "sample/sampling_params.h"
#include "sample/token_constraint.h"

namespace quipu {

enum class FinishReason {
  kNone,         // still running
  kStop,         // a stop token, or the end of what a constraint allows
  kLength,       // max_tokens
  kContextFull,  // the model's context, or the KV pool, holds no more
  kCancelled,
  kDeadline,    // Request::deadline_ns passed
  kConstraint,  // the request's constraint could not go on
};
inline constexpr int kFinishReasons = 7;

// OpenAI's names: "stop", "length" (also for a full context), "cancelled"; and "deadline",
// "constraint".
std::string_view finish_reason_name(FinishReason reason);

// Which positions' logits the caller wants to see.
enum class LogitsWanted { kNone, kSampled, kAll };

// SHAPE: logits: [vocab_size], of the token that follows `position`; valid during the call.
using LogitsObserver = std::function<void(int64_t position, std::span<const float> logits)>;

struct Request {
  RequestId id;
  std::vector<TokenId> prompt;  // REQUIRES: not empty
  // Encoder-decoder models: what the encoder reads; the prompt is then the beginning of the
  // decoder's tokens, such as decoder_start_token. Empty for all others.
  std::vector<TokenId> input;
  SamplingParams sampling;
  int64_t max_tokens = 0;            // output tokens; 0: only compute the prompt
  std::vector<TokenId> stop_tokens;  // end the output; they are not part of it
  // What the output may be; null for anything. REQUIRES: at its beginning, and no other request's.
  // Shared with who made it.
  std::shared_ptr<TokenConstraint> constraint;
  // Prefixes are shared within a salt only; tenants get one each.
  std::string cache_salt;
  // Lower ones start first, and the highest number gives way first when memory runs out; equal ones
  // in order of arrival. The scheduler keeps to this strictly: whoever hands it an endless supply of
  // low numbers starves the others (app/fair_queue.h does not).
  int priority = 0;
  // Ends then, waiting or running, before the next step. UNITS: ns of the engine's clock.
  std::optional<int64_t> deadline_ns;
  Retention retention;  // of what this request leaves in the cache
  bool explain_cache = false;  // fill RequestStats::reuse with all that KvCache::explain() tells
  std::string explain_salts;   // and look only under salts that begin like this
  LogitsWanted logits_wanted = LogitsWanted::kNone;
  LogitsObserver on_logits;  // called on the engine thread, once per wanted position, in order
};

// What happened to a request, filled as it goes. UNITS: tokens, ns of the engine's clock.
struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  // prompt tokens whose keys and values were already there
  int64_t input_tokens = 0;   // of the encoder
  int64_t cached_input_tokens = 0;
  KvExplanation reuse;        // where those came from, and why there were not more
  int preemptions = 0;
  int64_t drafts_proposed = 0,
          drafts_accepted = 0;  // guessed tokens that were checked, and came true
  int64_t submitted_ns = 0;
  std::optional<int64_t> started_ns;      // first scheduled
  std::optional<int64_t> first_token_ns;  // prompt computed; nothing when it ended before that
  int64_t finished_ns = 0;
};

}  // namespace quipu
