// Sequence: the mutable progress of one request.
//
//   tokens   | prompt ............ | output ...... |
//            0        num_computed_tokens   num_tokens
//
// There is no prefill mode and no decode mode: num_computed_tokens catches up with num_tokens;
// prefill is "far behind", decode is "one behind".
// THREADS: engine thread only; changed by the scheduler's plan() and commit() alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "engine/prompt_lookup.h"
#include "engine/request.h"
#include "kv/encoding_cache.h"
#include "kv/kv_cache.h"
#include "sample/sampler.h"

namespace quipu {

struct Sequence {
  static constexpr int64_t kTokensReserved = int64_t{1} << 20;

  // `room` is an empty part of the cache. UNITS: tokens_max: tokens of prompt and output; room for
  // them is made here, so that decoding allocates nothing (a streamed sequence of more than
  // kTokensReserved tokens doubles its list now and then).
  Sequence(Request ask, SequenceKv room, int64_t tokens_max)
      : request(std::move(ask)),
        kv(std::move(room)),
        sampler(request.sampling, request.prompt, request.constraint) {
    tokens.reserve(static_cast<size_t>(std::min(tokens_max, kTokensReserved)));
    tokens = request.prompt;
    kv.salt = request.cache_salt;
    kv.retention = request.retention;
    stats.prompt_tokens = num_prompt_tokens();
    stats.input_tokens = num_input_tokens();
  }

  // Whether this one comes before another when places or memory are short.
  bool ranks_before(const Sequence& other) const {
    return std::pair(request.priority, arrival) < std::pair(other.request.priority, other.arrival);
  }

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_computed_tokens() const { return kv.num_tokens(); }
  int64_t num_prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()); }
  int64_t num_input_tokens() const { return static_cast<int64_t>(request.input.size()); }
  int64_t num_output_tokens() const { return num_tokens() - num_prompt_tokens(); }

  const Request request;
  int64_t arrival = 0;  // counts up
  std::vector<TokenId> tokens;
  SequenceKv kv;
  BlockKey input_key;    // of the encoder's input
  EncodingRef encoding;  // of the input; held while the sequence runs
  Sampler sampler;
  PromptLookup lookup;
  DraftGain forced_gain{0.9};  // of guesses that the constraint makes
  std::vector<TokenId> draft;  // guesses for the tokens after the last, in the step just planned
  bool draft_is_forced = false;  // the constraint made them
  // What the cache is bringing back for it while it waits; asked for once per admission.
  std::optional<PromotionTicket> promotion;
  bool asked_tier = false;
  int64_t asked_tier_ns = 0;
  std::optional<int64_t> matched_when_waiting;  // tokens, when it first waited for another's prefix
  int64_t num_observed_tokens = 0;  // positions whose logits were shown to on_logits
  RequestStats stats;
};

}  // namespace quipu
