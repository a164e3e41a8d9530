#include "engine/scheduler.h"

#include <algorithm>

namespace quipu {

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone: return "none";
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength:
    case FinishReason::kContextFull: return "length";
    case FinishReason::kCancelled: return "cancelled";
    case FinishReason::kDeadline: return "deadline";
    case FinishReason::kConstraint: return "constraint";
  }
  return "unknown";
}

namespace {

// Where a sequence belongs among others in the order of their ranks.
template <typename List>
auto place_by_rank(List& list, const Sequence& sequence) {
  return std::upper_bound(
      list.begin(), list.end(), sequence,
      [](const Sequence& a, const std::unique_ptr<Sequence>& b) { return a.ranks_before(*b); });
}

// What a windowed group must hold beside its windows: the most that a step adds to a sequence.
KvCacheConfig with_chunk(KvCacheConfig cache, const SchedulerConfig& config) {
  cache.chunk_max = std::min(config.prefill_chunk_max, config.batch_tokens_max);
  return cache;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, const KvCacheConfig& cache, const Clock& clock)
    : config_(config),
      clock_(clock),
      cache_(with_chunk(cache, config), clock),
      inputs_(config.inputs ? std::make_unique<EncodingCache>(*config.inputs) : nullptr),
      token_limit_(std::min(config.context_length,
                            cache_.sequence_tokens_max().value_or(config.context_length))),
      pacer_(config.decode_stretch_max) {
  QUIPU_CHECK(config.batch_tokens_max > 0 && config.prefill_chunk_max > 0 &&
                  config.sequences_max > 0 && config.logit_rows_max > 0 &&
                  config.context_length > 0,
              "scheduler limits must be positive");
  QUIPU_CHECK(config.keep_kv || !cache.publish, "a cache that keeps nothing must not publish");
}

Status Scheduler::check_input(const Request& request) const {
  const auto tokens = static_cast<int64_t>(request.input.size());
  if (inputs_ == nullptr) {
    if (tokens == 0) return Status::ok_status();
    return make_error(ErrorCode::kInvalidArgument,
                      "an input of {} tokens for an encoder, but this model has none", tokens);
  }
  if (tokens == 0)
    return make_error(ErrorCode::kInvalidArgument, "the input has no tokens to encode");
  if (tokens > config_.context_length) {
    return make_error(ErrorCode::kResourceExhausted,
                      "the input has {} tokens and the encoder takes {}; shorten it or raise "
                      "--ctx-size",
                      tokens, config_.context_length);
  }
  if (tokens > inputs_->input_limit()) {
    return make_error(
        ErrorCode::kResourceExhausted,
        "the input has {} tokens and the cache for encoded inputs holds {} ({} blocks "
        "of {}); raise --kv-memory",
        tokens, inputs_->input_limit(), inputs_->total_blocks(), inputs_->block_tokens());
  }
  return Status::ok_status();
}

Status Scheduler::refuse(Status why) {
  ++counters_.requests_refused;
  return why;
}

Status Scheduler::submit(Request request) {
  if (Status valid = request.sampling.validate(); !valid.ok()) return refuse(std::move(valid));
  if (Status valid = check_input(request); !valid.ok()) return refuse(std::move(valid));
  const int64_t prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (prompt_tokens == 0)
    return refuse(make_error(ErrorCode::kInvalidArgument, "the prompt has no tokens"));
  const int64_t needed = prompt_tokens + (request.max_tokens > 0 ? 1 : 0);
  if (needed > config_.context_length) {
    return refuse(
        make_error(ErrorCode::kResourceExhausted,
                   "the prompt has {} tokens and the context holds {}{}; shorten the prompt or "
                   "raise --ctx-size",
                   prompt_tokens, config_.context_length,
                   request.max_tokens > 0 ? " with at least one of output" : ""));
  }
  if (needed > token_limit_) {
    return refuse(make_error(
        ErrorCode::kResourceExhausted,
        "the prompt has {} tokens and the KV cache holds {} (in blocks of {}); raise --kv-memory",
        prompt_tokens, token_limit_, cache_.block_tokens()));
  }
  const int64_t tokens_max =
      prompt_tokens + std::min(request.max_tokens, token_limit_ - prompt_tokens);
  auto sequence =
      std::make_unique<Sequence>(std::move(request), cache_.make_sequence(tokens_max), tokens_max);
  sequence->stats.submitted_ns = clock_.now_ns();
  if (inputs_ != nullptr) {
    sequence->input_key = inputs_->key(sequence->request.cache_salt, sequence->request.input);
    // What the decoder computes depends on the input: equal prefixes of different inputs differ.
    sequence->kv.salt += "\ninput " + sequence->input_key.to_hex();
  }
  sequence->arrival = arrivals_++;
  ++counters_.requests_submitted;
  insert_waiting(std::move(sequence));
  return Status::ok_status();
}

void Scheduler::insert_waiting(std::unique_ptr<Sequence> sequence) {
  const auto place = place_by_rank(waiting_, *sequence);
  waiting_.insert(place, std::move(sequence));
}

bool Scheduler::cancel(RequestId id) {
  const auto matches = [&](const std::unique_ptr<Sequence>& sequence) {
    return sequence->request.id == id;
  };
  if (const auto it = std::find_if(waiting_.begin(), waiting_.end(), matches);
      it != waiting_.end()) {
    std::unique_ptr<Sequence> sequence = std::move(*it);
    waiting_.erase(it);
    cancelled_.push_back(finish(std::move(sequence), FinishReason::kCancelled));
    return true;
  }
  if (const auto it = std::find_if(running_.begin(), running_.end(), matches);
      it != running_.end()) {
    std::unique_ptr<Sequence> sequence = std::move(*it);
    running_.erase(it);
    cancelled_.push_back(finish(std::move(sequence), FinishReason::kCancelled));
    return true;
  }
  return false;
}

void Scheduler::end_late() {
  const auto take_late_of = [this](auto& sequences) {
    for (size_t i = 0; i < sequences.size();) {
      const std::optional<int64_t>& deadline_ns = sequences[i]->request.deadline_ns;
      if (!deadline_ns.has_value() || *deadline_ns > planned_ns_) {
        ++i;
        continue;
      }
      std::unique_ptr<Sequence> late = std::move(sequences[i]);
      sequences.erase(sequences.begin() + static_cast<std::ptrdiff_t>(i));
      ++counters_.deadlines_passed;
      cancelled_.push_back(finish(std::move(late), FinishReason::kDeadline));
    }
  };
  take_late_of(waiting_);
  take_late_of(running_);
}

void Scheduler::take_cancelled(std::vector<StepEvent>& events) {
  std::move(cancelled_.begin(), cancelled_.end(), std::back_inserter(events));
  cancelled_.clear();
}

void Scheduler::plan(StepPlan& plan) {
  plan.clear();
  planned_ns_ = clock_.now_ns();
  looked_ns_ = 0;
  end_late();
  cache_.finish_transfers();
  int budget = config_.batch_tokens_max;
  schedule_running(plan, budget, /*decoding=*/true);
  if (!plan.sequences.empty()) budget = pacer_.prompt_tokens_max(budget);
  schedule_running(plan, budget, /*decoding=*/false);
  admit_waiting(plan, budget);
  cache_.take_transfers(plan.stores, plan.loads);
  const bool has_sequences = !running_.empty() || !waiting_.empty();
  QUIPU_CHECK(!plan.empty() || !has_sequences || cache_.has_promotions(),
              "{} running and {} waiting sequences cannot move", num_running(), num_waiting());
}

// Gives budget to running sequences: those one token behind, or those further behind.
void Scheduler::schedule_running(StepPlan& plan, int& budget, bool decoding) {
  // Beside prompts there is better to compute than guesses.
  const bool only_decodes =
      waiting_.empty() && std::all_of(running_.begin(), running_.end(), [](const auto& sequence) {
        return sequence->num_tokens() - sequence->num_computed_tokens() == 1;
      });
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    const bool one_behind = sequence.num_tokens() - sequence.num_computed_tokens() == 1;
    if (one_behind != decoding) continue;
    const int count = chunk_for(sequence, budget);
    const int64_t end = sequence.num_computed_tokens() + count;
    bool fits = take_room(sequence, end, plan);
    while (!fits && preempt_last(sequence, plan)) fits = take_room(sequence, end, plan);
    if (!fits) continue;  // it preempted itself, or waits for those before it
    const int drafts = decoding && only_decodes ? add_drafts(sequence, end, budget - count) : 0;
    plan.sequences.push_back({&sequence, sequence.num_computed_tokens(), count, drafts});
    budget -= count + drafts;
  }
}

// Guesses what follows the sequence's last token, and makes room for it if there is some to spare.
// Returns how many.
int Scheduler::add_drafts(Sequence& sequence, int64_t end, int budget) {
  const Request& request = sequence.request;
  if (!config_.keep_kv || request.logits_wanted == LogitsWanted::kAll) return 0;
  // The last token that it may have needs no successor.
  const int64_t left = std::min(request.max_tokens - sequence.num_output_tokens(),
                                token_limit_ - sequence.num_tokens()) -
                       1;
  propose(sequence, static_cast<int>(std::clamp<int64_t>(left, 0, budget)));
  const auto drafts = static_cast<int>(sequence.draft.size());
  if (drafts == 0 || !cache_.can_reserve(sequence.kv, end + drafts) ||
      !cache_.reserve(sequence.kv, end + drafts))
    return 0;
  return drafts;
}

// Fills the sequence's draft with at most so many guesses: what its constraint leaves, or else what
// its text suggests.
void Scheduler::propose(Sequence& sequence, int most) {
  sequence.draft.clear();
  sequence.draft_is_forced = false;
  if (!pacer_.knows_decode_step()) return;  // one without guesses tells what they cost
  const int forced_max = std::min(most, config_.forced_tokens_max);
  if (forced_max > 0 && sequence.sampler.is_constrained()) {
    const int64_t begin_ns = clock_.now_ns();
    const int count = sequence.forced_gain.count(forced_max, draft_costs(forced_look_ns_));
    if (count > 0) {
      sequence.sampler.guess(count, sequence.draft);
      note_look(begin_ns, forced_look_ns_);
      sequence.draft_is_forced = !sequence.draft.empty();
      if (sequence.draft_is_forced) return;
      sequence.forced_gain.found_none();
    }
  }
  const int lookup_max = std::min(most, config_.draft_tokens_max);
  if (lookup_max <= 0) return;
  const int64_t begin_ns = clock_.now_ns();
  const DraftCosts costs = draft_costs(lookup_look_ns_);
  if (sequence.lookup.propose(sequence.tokens, lookup_max, costs, sequence.draft))
    note_look(begin_ns, lookup_look_ns_);
}

// What guesses take of a step, they take from every sequence in it: of what each gets, that is so
// many times as much.
DraftCosts Scheduler::draft_costs(const RunningEstimate& look_ns) const {
  const auto sequences = static_cast<double>(num_running());
  const std::optional<double> step_ns = pacer_.decode_step_ns();
  if (!step_ns.has_value()) return {.look = 0, .token = pacer_.token_cost()};
  return {.look = sequences * look_ns.value().value_or(0) / *step_ns,
          .token = sequences * pacer_.token_cost()};
}

void Scheduler::note_look(int64_t begin_ns, RunningEstimate& look_ns) {
  const int64_t took_ns = clock_.now_ns() - begin_ns;
  looked_ns_ += took_ns;
  look_ns.observe(static_cast<double>(std::max<int64_t>(took_ns, 1)));
}

void Scheduler::judge_drafts(Sequence& sequence, int proposed, int accepted) {
  counters_.drafts_proposed += proposed;
  counters_.drafts_accepted += accepted;
  sequence.stats.drafts_proposed += proposed;
  sequence.stats.drafts_accepted += accepted;
  if (!sequence.draft_is_forced) return sequence.lookup.judged(proposed, accepted);
  counters_.forced_proposed += proposed;
  counters_.forced_accepted += accepted;
  sequence.forced_gain.judged(proposed, accepted);
}

void Scheduler::admit_waiting(StepPlan& plan, int& budget) {
  for (size_t i = 0; i < waiting_.size() && budget > 0;) {
    Sequence& sequence = *waiting_[i];
    if (waits_for_prefix(sequence) || waits_for_tier(sequence)) {
      ++i;  // others may pass: it will need less when its time comes
      continue;
    }
    const int64_t encoded = encoder_work(sequence);
    if (encoded > budget && !plan.encodes.empty()) return;  // one that does not fit, each step
    if (!start_by_rank(i, plan)) return;                    // no other passes
    running_.insert(place_by_rank(running_, sequence), std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    budget = static_cast<int>(std::max<int64_t>(1, budget - encoded));  // its decoder starts too
    const int count = chunk_for(sequence, budget);
    plan.sequences.push_back({&sequence, sequence.num_computed_tokens(), count});
    budget -= count;
  }
}

// Starts a waiting sequence, if need be in the place of running ones of a later priority. False: it
// must wait. Those that gave way come behind it in the queue.
bool Scheduler::start_by_rank(size_t index, StepPlan& plan) {
  Sequence& sequence = *waiting_[index];
  for (;;) {
    if (num_running() < config_.sequences_max && start(sequence, plan)) return true;
    if (running_.empty() || running_.back()->request.priority <= sequence.request.priority)
      return false;
    preempt_last(sequence, plan);
  }
}

// Takes what is cached of a waiting sequence and reserves room for the rest of its tokens. False
// when it must wait for running sequences to end; it then holds no block.
bool Scheduler::start(Sequence& sequence, StepPlan& plan) {
  if (!can_encode(sequence)) return false;
  const size_t copies_before = plan.copies.size();
  KvExplanation found =
      cache_.begin(sequence.kv, sequence.tokens, reuse_max(sequence), plan.copies);
  const bool is_first_start = !sequence.stats.started_ns.has_value();
  if (is_first_start && sequence.request.explain_cache)
    cache_.explain(sequence.kv, sequence.tokens, reuse_max(sequence),
                   sequence.request.explain_salts, found);
  if (!cache_.can_grow_to(sequence.kv, sequence.num_tokens()) ||
      !cache_.reserve(sequence.kv, sequence.num_tokens())) {
    // A copied block was never written: forget it rather than leave it behind as a tail.
    if (plan.copies.size() > copies_before) {
      const int64_t whole = static_cast<int64_t>(sequence.kv.path.size()) * cache_.block_tokens();
      cache_.truncate(sequence.kv, whole, plan.copies);
      plan.copies.resize(copies_before);
    }
    cache_.release(sequence.kv, sequence.tokens);
    return false;
  }
  if (is_first_start) {
    sequence.stats.started_ns = clock_.now_ns();
    sequence.stats.cached_tokens = sequence.num_computed_tokens();
    sequence.stats.cached_input_tokens = sequence.num_input_tokens() - encoder_work(sequence);
    note_reuse(sequence, found);
  }
  encode(sequence, plan);
  return true;
}

// Tokens of the input that are not encoded yet.
int64_t Scheduler::encoder_work(const Sequence& sequence) const {
  if (inputs_ == nullptr || inputs_->contains(sequence.input_key)) return 0;
  return sequence.num_input_tokens();
}

bool Scheduler::can_encode(const Sequence& sequence) const {
  return inputs_ == nullptr || sequence.encoding.valid() ||
         inputs_->can_acquire(sequence.input_key, sequence.num_input_tokens());
}

// Gives the sequence its encoded input; the step encodes it where nobody has. REQUIRES: can_encode.
void Scheduler::encode(Sequence& sequence, StepPlan& plan) {
  if (inputs_ == nullptr || sequence.encoding.valid()) return;
  std::optional<EncodingCache::Acquired> acquired =
      inputs_->acquire(sequence.input_key, sequence.num_input_tokens());
  QUIPU_CHECK(acquired.has_value(), "no room for an input of {} tokens",
              sequence.num_input_tokens());
  sequence.encoding = std::move(acquired->encoding);
  if (acquired->encoded) return;
  EncodeTask task{sequence.request.input, {}};
  for (const BlockRef& block : sequence.encoding.blocks()) task.blocks.push_back(block.id());
  plan.encodes.push_back(std::move(task));
}

// Room for a running sequence's tokens up to `end`, and for its input. False: not enough.
bool Scheduler::take_room(Sequence& sequence, int64_t end, StepPlan& plan) {
  if (!can_encode(sequence) || !cache_.reserve(sequence.kv, end)) return false;
  encode(sequence, plan);
  return true;
}

// Of what was found at a request's first start: which part the tier brought, which another request
// computed meanwhile.
void Scheduler::note_reuse(Sequence& sequence, KvExplanation found) {
  if (const std::optional<PromotionTicket>& ticket = sequence.promotion; ticket.has_value()) {
    const int64_t brought = std::min(found.reused(), ticket->tokens_after) - ticket->tokens_before;
    found.from_tier = std::clamp<int64_t>(brought, 0, found.shared);
    const bool was_gone =
        found.reason == MissReason::kEvicted || found.reason == MissReason::kNeverSeen;
    if (found.reused() < ticket->tokens_after && was_gone) {
      cache_.recount_miss(found, MissReason::kTierFailed);
      found.reason = MissReason::kTierFailed;
    }
  }
  if (sequence.matched_when_waiting.has_value()) {
    found.waited_for = std::clamp<int64_t>(found.reused() - *sequence.matched_when_waiting, 0,
                                           found.shared - found.from_tier);
  }
  counters_.tokens_from_tier += found.from_tier;
  counters_.tokens_waited_for += found.waited_for;
  sequence.stats.reuse = found;
}

// True while the tier brings back what the sequence can reuse. Asked for once per admission, so
// that what is evicted again before it is used is computed and not brought again for ever.
bool Scheduler::waits_for_tier(Sequence& sequence) {
  if (cache_.tier() == nullptr || reuse_max(sequence) == 0) return false;
  if (!sequence.asked_tier) {
    sequence.asked_tier = true;
    sequence.asked_tier_ns = clock_.now_ns();
    sequence.promotion = cache_.promote(sequence.kv, sequence.tokens, reuse_max(sequence));
  }
  if (!sequence.promotion.has_value() || !cache_.is_in_flight(sequence.promotion->id)) return false;
  if (clock_.now_ns() - sequence.asked_tier_ns < config_.tier_wait_max_ns) return true;
  ++counters_.tier_waits_given_up;
  sequence.promotion.reset();
  return false;
}

// At least the last token is computed: its logits are needed. Those who want all logits reuse
// nothing.
int64_t Scheduler::reuse_max(const Sequence& sequence) const {
  return sequence.request.logits_wanted == LogitsWanted::kAll ? 0 : sequence.num_tokens() - 1;
}

// True while a running sequence computes a longer common beginning than the cache has already.
bool Scheduler::waits_for_prefix(Sequence& sequence) {
  if (!config_.keep_kv || reuse_max(sequence) == 0) return false;
  const int64_t block = cache_.block_tokens();
  int64_t coming = 0;
  for (const auto& other : running_) {
    if (other->kv.salt != sequence.kv.salt ||
        other->num_tokens() - other->num_computed_tokens() <= 1)
      continue;
    const int64_t limit = std::min({other->num_tokens(), sequence.num_tokens() - 1});
    const auto end = sequence.tokens.begin() + limit;
    const int64_t common =
        std::mismatch(sequence.tokens.begin(), end, other->tokens.begin()).first -
        sequence.tokens.begin();
    const int64_t published = common / block * block;
    if (published > other->num_computed_tokens()) coming = std::max(coming, published);
  }
  if (coming == 0) return false;
  const int64_t matched = cache_.match_length(sequence.kv, sequence.tokens);
  if (coming <= matched) return false;
  if (!sequence.matched_when_waiting.has_value()) sequence.matched_when_waiting = matched;
  return true;
}

int Scheduler::chunk_for(const Sequence& sequence, int budget) const {
  int limit = std::min(budget, config_.prefill_chunk_max);
  if (sequence.request.logits_wanted == LogitsWanted::kAll)
    limit = std::min(limit, config_.logit_rows_max);
  return static_cast<int>(
      std::min<int64_t>(limit, sequence.num_tokens() - sequence.num_computed_tokens()));
}

// Sends the running sequence of the last rank back to the queue, out of this step's plan too.
// False when that is `needy` itself.
bool Scheduler::preempt_last(const Sequence& needy, StepPlan& plan) {
  Sequence& victim = *running_.back();
  std::erase_if(plan.sequences, [&](const ScheduledSequence& s) { return s.sequence == &victim; });
  const bool preempts_itself = &victim == &needy;
  ++(cache_.would_store(victim.kv) ? counters_.preemptions_stored
                                   : counters_.preemptions_recomputed);
  victim.asked_tier = false;
  victim.promotion.reset();
  cache_.release(victim.kv, victim.tokens);
  victim.encoding.release();
  ++victim.stats.preemptions;
  std::unique_ptr<Sequence> preempted = std::move(running_.back());
  running_.pop_back();
  insert_waiting(std::move(preempted));
  return !preempts_itself;
}

void Scheduler::commit(const StepPlan& plan, std::span<const TokenId> next_tokens,
                       std::vector<StepEvent>& events) {
  size_t wanted = 0;
  for (const ScheduledSequence& scheduled : plan.sequences)
    wanted += 1 + static_cast<size_t>(scheduled.num_drafts);
  QUIPU_CHECK(next_tokens.size() == wanted, "{} tokens for {} sequences and their drafts, not {}",
              next_tokens.size(), plan.sequences.size(), wanted);
  note_step(plan);
  for (const ScheduledSequence& scheduled : plan.sequences) {
    const size_t count = 1 + static_cast<size_t>(scheduled.num_drafts);
    if (scheduled.reaches_end()) {
      take_outputs(scheduled, next_tokens.first(count), events);
    } else {
      cache_.append(scheduled.sequence->kv, scheduled.sequence->tokens, scheduled.num_tokens);
    }
    next_tokens = next_tokens.subspan(count);
  }
}

// The tokens that follow a sequence: one, and one more for each draft that came true.
void Scheduler::take_outputs(const ScheduledSequence& scheduled,
                             std::span<const TokenId> next_tokens, std::vector<StepEvent>& events) {
  Sequence& sequence = *scheduled.sequence;
  if (!sequence.stats.first_token_ns.has_value()) sequence.stats.first_token_ns = clock_.now_ns();
  int accepted = 0;
  StepEvent event;
  for (bool more = true; more;) {
    event = {};
    event.id = sequence.request.id;
    event.finish = FinishReason::kLength;
    if (sequence.request.max_tokens == 0) break;
    const TokenId token = next_tokens[static_cast<size_t>(accepted)];
    if (token == kNoToken) {
      event.finish = FinishReason::kConstraint;
      break;
    }
    const bool came_true =
        accepted < scheduled.num_drafts && token == sequence.draft[static_cast<size_t>(accepted)];
    // A complete output ends with the last token that was chosen: none was after a draft.
    const bool completes =
        sequence.sampler.is_complete() &&
        !(came_true && next_tokens[static_cast<size_t>(accepted) + 1] != kNoToken);
    event.finish = finish_reason_after(sequence, token);
    const bool is_output = event.finish != FinishReason::kStop;
    if (completes) event.finish = FinishReason::kStop;
    more = event.finish == FinishReason::kNone && came_true;
    if (is_output) {
      event.token = token;
      sequence.tokens.push_back(token);
      ++sequence.stats.completion_tokens;
    }
    if (more) {
      ++accepted;
      events.push_back(event);
    }
  }
  if (scheduled.num_drafts > 0) judge_drafts(sequence, scheduled.num_drafts, accepted);
  // Keys and values of drafts that did not come true are written over.
  cache_.append(sequence.kv, sequence.tokens, scheduled.num_tokens + accepted);
  if (event.finish != FinishReason::kNone) {
    const auto it = std::find_if(running_.begin(), running_.end(),
                                 [&](const auto& other) { return other.get() == &sequence; });
    std::unique_ptr<Sequence> finished = std::move(*it);
    running_.erase(it);
    const std::optional<TokenId> token = event.token;
    Status failure = event.finish == FinishReason::kConstraint ? finished->sampler.failure()
                                                               : Status::ok_status();
    event = finish(std::move(finished), event.finish);
    event.token = token;
    event.failure = std::move(failure);
  } else if (!config_.keep_kv) {
    cache_.release(sequence.kv, sequence.tokens);
    sequence.encoding.release();
  }
  events.push_back(std::move(event));
}

// Tells the pacer how long the step took, but for looking for guesses.
void Scheduler::note_step(const StepPlan& plan) {
  if (plan.has_transfers_with_tier()) return;
  int decodes = 0, prompt_tokens = 0;  // a draft costs what a prompt's token does
  for (const ScheduledSequence& scheduled : plan.sequences) {
    if (scheduled.num_tokens == 1 && scheduled.reaches_end()) {
      ++decodes;
      prompt_tokens += scheduled.num_drafts;
    } else {
      prompt_tokens += scheduled.num_tokens;
    }
  }
  pacer_.took(decodes, prompt_tokens, clock_.now_ns() - planned_ns_ - looked_ns_);
}

// Why the output ends when `token` is chosen next. A stop token is not part of the output.
FinishReason Scheduler::finish_reason_after(const Sequence& sequence, TokenId token) const {
  const std::vector<TokenId>& stops = sequence.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return FinishReason::kStop;
  if (sequence.num_output_tokens() + 1 >= sequence.request.max_tokens) return FinishReason::kLength;
  if (sequence.num_tokens() + 1 >= token_limit_) return FinishReason::kContextFull;
  return FinishReason::kNone;
}

StepEvent Scheduler::finish(std::unique_ptr<Sequence> sequence, FinishReason reason) {
  sequence->stats.finished_ns = clock_.now_ns();
  ++counters_.requests_finished;
  StepEvent event;
  event.id = sequence->request.id;
  event.finish = reason;
  event.stats = sequence->stats;
  cache_.release(sequence->kv, sequence->tokens);
  sequence->encoding.release();
  return event;
}

void Scheduler::check_invariants() const {
  cache_.check_invariants();
  if (inputs_ != nullptr) inputs_->check_invariants();
  const auto by_rank = [](const auto& a, const auto& b) { return a->ranks_before(*b); };
  QUIPU_CHECK(std::is_sorted(waiting_.begin(), waiting_.end(), by_rank) &&
                  std::is_sorted(running_.begin(), running_.end(), by_rank),
              "sequences are not in the order of their ranks");
  for (const auto& sequence : waiting_) {
    QUIPU_CHECK(!sequence->encoding.valid(), "waiting request {} holds an encoded input",
                sequence->request.id.value());
    QUIPU_CHECK(sequence->kv.num_blocks() == 0, "waiting request {} holds {} blocks",
                sequence->request.id.value(), sequence->kv.num_blocks());
  }
  for (const auto& sequence : running_) {
    QUIPU_CHECK(sequence->num_computed_tokens() < sequence->num_tokens(),
                "request {} has nothing to compute", sequence->request.id.value());
    QUIPU_CHECK(sequence->num_tokens() <= token_limit_, "request {} has {} tokens of {}",
                sequence->request.id.value(), sequence->num_tokens(), token_limit_);
  }
}

}  // namespace quipu
