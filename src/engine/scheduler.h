// Scheduler: decides, step by step, which tokens of which sequences are computed.
//
// One token budget per step; sequences that are one token behind come first (decode), then those
// further behind (prefill, in chunks), then new ones; each by rank: by priority, then in order of
// arrival. A new one whose beginning another is just computing waits for it, so that the shared
// part is computed once. While some decode, a step computes only so many prompt tokens as keep it
// short (step_pacer.h). When blocks run out, cached ones are evicted; then the running sequence of
// the last rank is preempted: its blocks become cached, and later it goes on from what is left of
// them, in memory or in the tier. A new sequence may preempt those of a later priority. The first
// in rank always moves, so all do. A request whose beginning lies in the tier waits until it came,
// while others pass. No request is lost: each ends with exactly one finish reason.
//
// A request with an input for an encoder has it encoded in the step in which it starts, unless an
// equal input is encoded already; the input's tokens count in the step's budget. A step encodes
// what fits into the budget, or one input that does not. Prefixes of the decoder are shared only
// where the inputs are equal.
//
// A request whose deadline has passed ends when the next step is planned, wherever it is.
// plan() and commit() are the only places that change
// sequences and blocks, and they touch no KV byte.
//
// Invariants (check_invariants):
//   1. every sequence is either waiting or running; a waiting one holds no block;
//   2. between steps, a running sequence has num_computed_tokens < num_tokens <= token_limit;
//   3. both are in the order of their ranks;
//   4. the cache's own invariants.
// THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "engine/request.h"
#include "engine/running_estimate.h"
#include "engine/sequence.h"
#include "engine/step_pacer.h"
#include "kv/encoding_cache.h"
#include "kv/kv_cache.h"

namespace quipu {

struct SchedulerConfig {
  int batch_tokens_max = 512;   // tokens per step, all sequences together
  int prefill_chunk_max = 512;  // tokens per step of one sequence
  int logit_rows_max = 64;      // per step, for sequences that want all logits
  int sequences_max = 64;       // running at once
  int64_t context_length = 0;   // of the model
  // False: nothing computed is kept from one step to the next (the textbook baseline without a KV
  // cache); every step recomputes the whole sequence. REQUIRES: then the cache does not publish.
  bool keep_kv = true;
  // The pool for encoded inputs, of an encoder-decoder model; nothing for all others.
  std::optional<EncodingCacheConfig> inputs;
  // The longest that a request waits for the tier; then it computes what has not come.
  int64_t tier_wait_max_ns = 2'000'000'000;
  // How many times as long a step may take because of prompts, while others decode. 0: any.
  double decode_stretch_max = 0;
  // Most guessed tokens beside a decoding sequence's last one (prompt_lookup.h). 0: none.
  int draft_tokens_max = 0;
  // The same where a request's constraint leaves one text to follow (TokenConstraint::guess()). Its
  // guesses come first. 0: none.
  int forced_tokens_max = 0;
};

// Totals since the start.
struct SchedulerCounters {
  int64_t requests_submitted = 0, requests_refused = 0, requests_finished = 0;
  // By what the cost model expects to be quicker when the request goes on: bringing its blocks back
  // from the tier if they are evicted, or computing them again.
  int64_t preemptions_stored = 0, preemptions_recomputed = 0;
  // Prompt tokens that a request found because the tier brought them back for it, or because it
  // waited for another that was computing them.
  int64_t tokens_from_tier = 0, tokens_waited_for = 0;
  int64_t drafts_proposed = 0, drafts_accepted = 0;  // UNITS: tokens
  int64_t forced_proposed = 0, forced_accepted = 0;  // of these, the constraints' guesses
  int64_t tier_waits_given_up = 0;
  int64_t deadlines_passed = 0;
};

// One sequence's share of a step: tokens [first_position, first_position + num_tokens), and after
// them the first num_drafts of sequence->draft, which it may turn out not to have.
struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int64_t first_position = 0;
  int num_tokens = 0;
  int num_drafts = 0;  // only where it reaches the end

  int num_computed() const { return num_tokens + num_drafts; }
  TokenId token(int i) const {
    return i < num_tokens ? sequence->tokens[static_cast<size_t>(first_position + i)]
                          : sequence->draft[static_cast<size_t>(i - num_tokens)];
  }

  // Its last token is the sequence's last: its logits choose the next token.
  bool reaches_end() const { return first_position + num_tokens == sequence->num_tokens(); }
};

// An input to be encoded into these blocks of the pool for encoded inputs.
struct EncodeTask {
  std::vector<TokenId> input;
  std::vector<BlockId> blocks;
};

struct StepPlan {
  std::vector<ScheduledSequence> sequences;
  // To be done before the step computes, in this order (kv/transfer.h). A plan may have transfers
  // alone.
  std::vector<KvStore> stores;
  std::vector<KvCopy> copies;
  std::vector<KvLoad> loads;
  std::vector<EncodeTask> encodes;  // in order, before the decoder computes
  bool empty() const { return sequences.empty() && !has_transfers_with_tier(); }
  bool has_transfers_with_tier() const { return !stores.empty() || !loads.empty(); }
  void clear() {
    sequences.clear();
    stores.clear();
    copies.clear();
    encodes.clear();
    loads.clear();
  }
};

// What a step did to a request.
struct StepEvent {
  RequestId id;
  std::optional<TokenId> token;  // a new output token
  FinishReason finish = FinishReason::kNone;
  RequestStats stats;  // complete when finish is set
  Status failure;      // why, when finish is kConstraint
};

class Scheduler {
 public:
  Scheduler(const SchedulerConfig& config, const KvCacheConfig& cache, const Clock& clock);

  // ERRORS: kInvalidArgument (empty prompt, sampling out of range); kResourceExhausted with the
  // numbers when the prompt can never fit the context or the pool.
  Status submit(Request request);

  // Ends a request early; its kCancelled event comes out of the next take_cancelled().
  // False when there is no such request (it may just have ended).
  bool cancel(RequestId id);

  // Whether another step has something to compute or to tell: the end of a cancelled request too.
  bool has_work() const { return !running_.empty() || !waiting_.empty() || !cancelled_.empty(); }

  // Ends what is late (its events come out of the next take_cancelled()) and fills `plan` with the
  // next step. Empty only when there is no work, or when all of it waits for a tier.
  void plan(StepPlan& plan);

  // Takes the step's outcome. SHAPE: next_tokens: for each planned sequence one entry, and one more
  // for each draft: what follows the tokens, the tokens and one draft, and so on. Read only where
  // reaches_end() and the request wants output, up to the first that is not the draft in its place;
  // there, kNoToken when the sequence's sampler failed. Samplers have accepted what they chose.
  // Events are appended.
  void commit(const StepPlan& plan, std::span<const TokenId> next_tokens,
              std::vector<StepEvent>& events);

  // Moves the events of cancelled and late requests into `events`.
  void take_cancelled(std::vector<StepEvent>& events);

  // The most tokens a sequence may have: the model's context or the whole pool. UNITS: tokens.
  int64_t token_limit() const { return token_limit_; }
  const KvCache& cache() const { return cache_; }
  KvCache& cache() { return cache_; }
  // Null for models without an encoder.
  const EncodingCache* inputs() const { return inputs_.get(); }
  EncodingCache* inputs() { return inputs_.get(); }
  int num_running() const { return static_cast<int>(running_.size()); }
  // By rank. OWNS: valid until the next plan() or cancel().
  std::span<const std::unique_ptr<Sequence>> running() const { return running_; }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }

  const SchedulerCounters& counters() const { return counters_; }

  void check_invariants() const;

 private:
  using SequenceList = std::vector<std::unique_ptr<Sequence>>;

  void end_late();
  void schedule_running(StepPlan& plan, int& budget, bool decoding);
  void admit_waiting(StepPlan& plan, int& budget);
  bool start_by_rank(size_t index, StepPlan& plan);
  void note_step(const StepPlan& plan);
  int add_drafts(Sequence& sequence, int64_t end, int budget);
  void propose(Sequence& sequence, int most);
  DraftCosts draft_costs(const RunningEstimate& look_ns) const;
  void note_look(int64_t begin_ns, RunningEstimate& look_ns);
  void judge_drafts(Sequence& sequence, int proposed, int accepted);
  void take_outputs(const ScheduledSequence& scheduled, std::span<const TokenId> next_tokens,
                    std::vector<StepEvent>& events);
  Status check_input(const Request& request) const;
  bool start(Sequence& sequence, StepPlan& plan);
  int64_t encoder_work(const Sequence& sequence) const;
  bool can_encode(const Sequence& sequence) const;
  void encode(Sequence& sequence, StepPlan& plan);
  bool take_room(Sequence& sequence, int64_t end, StepPlan& plan);
  bool waits_for_prefix(Sequence& sequence);
  bool waits_for_tier(Sequence& sequence);
  void note_reuse(Sequence& sequence, KvExplanation found);
  Status refuse(Status why);
  int64_t reuse_max(const Sequence& sequence) const;
  int chunk_for(const Sequence& sequence, int budget) const;
  bool preempt_last(const Sequence& needy, StepPlan& plan);
  void insert_waiting(std::unique_ptr<Sequence> sequence);
  FinishReason finish_reason_after(const Sequence& sequence, TokenId token) const;
  StepEvent finish(std::unique_ptr<Sequence> sequence, FinishReason reason);

  SchedulerConfig config_;
  const Clock& clock_;
  KvCache cache_;
  std::unique_ptr<EncodingCache> inputs_;
  int64_t token_limit_;
  std::deque<std::unique_ptr<Sequence>> waiting_;  // after the caches: sequences hold their blocks
  SequenceList running_;
  int64_t arrivals_ = 0;
  StepPacer pacer_;
  int64_t planned_ns_ = 0;  // when the last plan was made
  int64_t looked_ns_ = 0;   // for guesses, in that plan
  // Of looking for guesses once: some find nothing at once, others a long text.
  RunningEstimate forced_look_ns_{8}, lookup_look_ns_{8};
  std::vector<StepEvent> cancelled_;
  SchedulerCounters counters_;
};

}  // namespace quipu
