// Simulation of the scheduler with a fake model: the next token is a function of the tokens before
// it, so that a preempted, resumed or reused sequence must give the same output as an undisturbed
// one.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "engine/scheduler.h"
#include "kv/host_tier.h"

namespace quipu {
namespace {

constexpr int kBlockTokens = 16;

TokenId fake_next(std::span<const TokenId> tokens) {
  uint64_t hash = 1469598103934665603ull;
  for (const TokenId token : tokens)
    hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211ull;
  return static_cast<TokenId>(hash >> 40) % 50;
}

// A model whose "keys and values" are the token ids themselves, kept per group and slot: every
// token that a step does not compute, and that its window shows, must be found where the block
// table says.
class FakeModel {
 public:
  explicit FakeModel(const std::vector<KvGroupConfig>& groups, KvTier* tier = nullptr)
      : groups_(groups), tier_(tier) {
    for (const KvGroupConfig& group : groups)
      slots_.emplace_back(static_cast<size_t>(group.total_blocks) * kBlockTokens, -1);
  }

  TokenId (*next_of)(std::span<const TokenId> tokens) = fake_next;

  std::vector<TokenId> run(const StepPlan& plan) {
    for (const KvStore& store : plan.stores)
      tier_->store(store.key, std::as_bytes(block(store.group, store.block)), sizeof(TokenId));
    for (const KvCopy& copy : plan.copies) {
      std::vector<TokenId>& slots = slots_[static_cast<size_t>(copy.group)];
      std::copy_n(slots.begin() + copy.from.value() * kBlockTokens, kBlockTokens,
                  slots.begin() + copy.to.value() * kBlockTokens);
    }
    for (const KvLoad& load : plan.loads) {
      tier_->load(load.transfer, load.key,
                  std::as_writable_bytes(block(load.group, load.block)));
    }
    std::vector<TokenId> next;
    for (const ScheduledSequence& scheduled : plan.sequences) {
      const Sequence& sequence = *scheduled.sequence;
      EXPECT_EQ(scheduled.first_position, sequence.num_computed_tokens());
      for (size_t group = 0; group < slots_.size(); ++group) attend(scheduled, group);
      // What follows the tokens, the tokens and one draft, and so on.
      std::vector<TokenId> tokens = sequence.tokens;
      next.push_back(next_of(tokens));
      for (int i = 0; i < scheduled.num_drafts; ++i) {
        tokens.push_back(sequence.draft[static_cast<size_t>(i)]);
        next.push_back(next_of(tokens));
      }
    }
    return next;
  }

 private:
  void attend(const ScheduledSequence& scheduled, size_t group) {
    const Sequence& sequence = *scheduled.sequence;
    const KvLifetime& lifetime = groups_[group].lifetime;
    const int64_t seen = lifetime.first_seen(scheduled.first_position);
    for (int64_t p = 0; p < scheduled.first_position + scheduled.num_computed(); ++p) {
      if (p >= lifetime.sinks && p < seen) continue;
      TokenId& slot = slots_[group][static_cast<size_t>(sequence.kv.tables[group].slot(p))];
      if (p >= scheduled.first_position) {
        slot = scheduled.token(static_cast<int>(p - scheduled.first_position));
      } else {
        EXPECT_EQ(slot, sequence.tokens[static_cast<size_t>(p)]) << "position " << p;
      }
    }
  }

  std::span<TokenId> block(int group, BlockId id) {
    return std::span(slots_[static_cast<size_t>(group)])
        .subspan(static_cast<size_t>(id.value()) * kBlockTokens, kBlockTokens);
  }

  std::vector<KvGroupConfig> groups_;
  KvTier* tier_;
  std::vector<std::vector<TokenId>> slots_;  // SHAPE: [groups][slots]
};

// Mostly what followed six tokens ago: some guesses come true, and some do not.
TokenId repeating_next(std::span<const TokenId> tokens) {
  const TokenId random = fake_next(tokens);
  return tokens.size() > 6 && random % 8 != 0 ? tokens[tokens.size() - 6] : random;
}

std::vector<TokenId> expected_output(std::vector<TokenId> tokens, int64_t max_tokens, int64_t limit,
                                     TokenId stop,
                                     TokenId (*next_of)(std::span<const TokenId>) = fake_next) {
  std::vector<TokenId> output;
  while (static_cast<int64_t>(output.size()) < max_tokens &&
         static_cast<int64_t>(tokens.size()) < limit) {
    const TokenId next = next_of(tokens);
    if (next == stop) break;
    tokens.push_back(next);
    output.push_back(next);
  }
  return output;
}

struct Simulation {
  Simulation(const SchedulerConfig& config, int blocks)
      : Simulation(config, std::vector<KvGroupConfig>{{blocks, {}}}) {}
  Simulation(const SchedulerConfig& config, const std::vector<KvGroupConfig>& groups,
             KvTier* tier = nullptr)
      : scheduler(config,
                  {.groups = groups,
                   .block_tokens = kBlockTokens,
                   .publish = config.keep_kv,
                   .tier = tier},
                  clock),
        model(groups, tier) {}

  void step() {
    scheduler.plan(plan);
    int tokens = 0;
    for (const ScheduledSequence& scheduled : plan.sequences) tokens += scheduled.num_tokens;
    largest_step = std::max(largest_step, tokens);
    std::vector<StepEvent> events;
    scheduler.take_cancelled(events);
    if (!plan.empty()) {
      const std::vector<TokenId> next = model.run(plan);
      if (step_ns) clock.advance_ns(step_ns(plan));
      scheduler.commit(plan, next, events);
    }
    if (!step_ns) clock.advance_ns(1'000'000);
    for (const StepEvent& event : events) {
      if (event.token) outputs[event.id.value()].push_back(*event.token);
      if (event.finish == FinishReason::kNone) continue;
      EXPECT_FALSE(finished.contains(event.id.value())) << "two terminal events";
      finished[event.id.value()] = event;
    }
    scheduler.check_invariants();
  }

  FakeClock clock;
  Scheduler scheduler;
  FakeModel model;
  std::function<int64_t(const StepPlan&)> step_ns;  // how long a step takes; or 1 ms
  StepPlan plan;
  std::map<int64_t, std::vector<TokenId>> outputs;
  std::map<int64_t, StepEvent> finished;
  int largest_step = 0;
};

SchedulerConfig small_config() {
  return {
      .batch_tokens_max = 24, .prefill_chunk_max = 16, .sequences_max = 5, .context_length = 120};
}

Request make_request(int64_t id, std::vector<TokenId> prompt, int64_t max_tokens) {
  Request request;
  request.id = RequestId(id);
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  request.stop_tokens = {7};
  return request;
}

struct PressureCase {
  const char* name;
  bool keep_kv;
  std::vector<KvGroupConfig> groups;
  int draft_tokens_max = 0;
};

class SchedulerSimulation : public testing::TestWithParam<PressureCase> {};

// Many requests with shared beginnings in a pool that is far too small: preemptions, reuse, and
// cancellations, and still every request gives the undisturbed output and one terminal event.
TEST_P(SchedulerSimulation, EveryRequestGetsItsOwnOutputUnderPressure) {
  SchedulerConfig config = small_config();
  config.keep_kv = GetParam().keep_kv;
  config.draft_tokens_max = GetParam().draft_tokens_max;
  Simulation simulation(config, GetParam().groups);
  if (config.draft_tokens_max > 0) simulation.model.next_of = repeating_next;
  Random random(config.keep_kv ? 21 : 22);
  std::map<int64_t, Request> asked;
  std::map<int64_t, bool> cancelled;
  int preemptions = 0;
  const int rounds = 4000;
  const uint64_t rarely = config.draft_tokens_max > 0 ? 14 : 4;  // drafts are for idle moments
  for (int64_t round = 0; round < rounds; ++round) {
    if (random.next_below(rarely) == 0 && simulation.scheduler.num_waiting() < 20) {
      std::vector<TokenId> prompt;
      const uint64_t family = random.next_below(3);
      for (uint64_t n = 1 + random.next_below(70); n > 0; --n) {
        prompt.push_back(static_cast<TokenId>((n + family * 17) % 40));
      }
      if (random.next_below(2)) std::reverse(prompt.begin(), prompt.end());
      Request request = make_request(round, prompt, static_cast<int64_t>(random.next_below(60)));
      request.priority = static_cast<int>(random.next_below(3)) - 1;
      asked.emplace(round, request);
      ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
    }
    if (random.next_below(40) == 0 && !asked.empty()) {
      auto it = asked.begin();
      std::advance(it, static_cast<ptrdiff_t>(random.next_below(asked.size())));
      if (!simulation.finished.contains(it->first) &&
          simulation.scheduler.cancel(RequestId(it->first)))
        cancelled[it->first] = true;
    }
    simulation.step();
  }
  while (simulation.scheduler.has_work()) simulation.step();
  EXPECT_LE(simulation.largest_step, config.batch_tokens_max);
  ASSERT_EQ(simulation.finished.size(), asked.size());
  for (const auto& [id, request] : asked) {
    const StepEvent& end = simulation.finished.at(id);
    preemptions += end.stats.preemptions;
    std::vector<TokenId> expected =
        expected_output(request.prompt, request.max_tokens, simulation.scheduler.token_limit(), 7,
                        simulation.model.next_of);
    const std::vector<TokenId>& got = simulation.outputs[id];
    if (cancelled.contains(id)) {
      EXPECT_EQ(end.finish, FinishReason::kCancelled);
      ASSERT_LE(got.size(), expected.size());
      expected.resize(got.size());
    }
    EXPECT_EQ(got, expected) << "request " << id;
  }
  EXPECT_GT(preemptions, 0);
  if (config.draft_tokens_max > 0) {
    EXPECT_GT(simulation.scheduler.counters().drafts_accepted, 500);
    EXPECT_GT(simulation.scheduler.counters().drafts_proposed,
              simulation.scheduler.counters().drafts_accepted);
  }
  KvCache& cache = simulation.scheduler.cache();
  cache.clear();
  for (int group = 0; group < cache.num_groups(); ++group)
    EXPECT_EQ(cache.free_blocks(group), cache.total_blocks(group));
}

INSTANTIATE_TEST_SUITE_P(
    KvCache, SchedulerSimulation,
    testing::Values(PressureCase{"on", true, {{12, {}}}}, PressureCase{"off", false, {{12, {}}}},
                    PressureCase{"mixed", true, {{12, {}}, {9, {.window = 30}}}},
                    PressureCase{"mixed_off", false, {{12, {}}, {9, {.window = 30}}}},
                    PressureCase{"windowed", true, {{8, {.window = 21}}}},
                    PressureCase{"drafts", true, {{12, {}}}, 5},
                    PressureCase{"drafts_mixed", true, {{12, {}}, {9, {.window = 30}}}, 8},
                    PressureCase{"three",
                                 true,
                                 {{16, {}}, {7, {.window = 5}}, {12, {.window = 40, .sinks = 4}}}}),
    [](const auto& test) { return test.param.name; });

TEST(Scheduler, StartsByPriorityThenArrival) {
  SchedulerConfig config = small_config();
  config.sequences_max = 1;
  Simulation simulation(config, 20);
  int64_t id = 0;
  for (const int priority : {5, 0, 5, -1, 0}) {
    Request request = make_request(id, {static_cast<TokenId>(10 + id)}, 1);
    request.priority = priority;
    ++id;
    ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  }
  std::vector<std::pair<int64_t, int64_t>> order;
  while (simulation.scheduler.has_work()) simulation.step();
  for (const auto& [finished, event] : simulation.finished)
    order.emplace_back(*event.stats.started_ns, finished);
  std::sort(order.begin(), order.end());
  std::vector<int64_t> ids;
  for (const auto& [time, finished] : order) ids.push_back(finished);
  EXPECT_EQ(ids, (std::vector<int64_t>{3, 1, 4, 0, 2}));
}

// Memory for one: the urgent one takes it at once, the other goes on after it and loses nothing.
TEST(Scheduler, AnUrgentRequestTakesTheRoomOfALaterPriority) {
  SchedulerConfig config = small_config();
  Simulation simulation(config, 4);
  const auto submit = [&](int64_t id, int priority) {
    Request request = make_request(id, std::vector<TokenId>(40, static_cast<TokenId>(id)), 12);
    request.stop_tokens = {};
    request.priority = priority;
    ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  };
  submit(1, 1);
  for (int i = 0; i < 6; ++i) simulation.step();
  submit(2, 0);
  submit(3, 1);
  while (!simulation.finished.contains(2)) simulation.step();
  EXPECT_TRUE(simulation.finished.size() == 1);
  while (simulation.scheduler.has_work()) simulation.step();
  EXPECT_EQ(simulation.finished.at(1).stats.preemptions, 1);
  EXPECT_EQ(simulation.finished.at(2).stats.preemptions, 0);
  EXPECT_LT(simulation.finished.at(1).stats.finished_ns,
            simulation.finished.at(3).stats.finished_ns);
  for (const int64_t id : {1, 2, 3}) {
    EXPECT_EQ(simulation.outputs[id],
              expected_output(std::vector<TokenId>(40, static_cast<TokenId>(id)), 12, 1000, -1));
  }
}

// A prompt of 10,000 tokens beside four streams: their tokens keep coming at half their pace or
// better, and the prompt gets what the pacer aims at (0.76 of a step without), but for one in 17.
TEST(Scheduler, ALongPromptDoesNotStallRunningStreams) {
  constexpr int64_t kBaseNs = 25'000'000, kPromptTokenNs = 1'700'000, kPrompt = 10'000;
  SchedulerConfig config = {.batch_tokens_max = 512,
                            .prefill_chunk_max = 512,
                            .sequences_max = 8,
                            .context_length = 20'000,
                            .decode_stretch_max = 2};
  Simulation simulation(config, 2000);
  int decodes = 0, prompt_tokens = 0;
  simulation.step_ns = [&](const StepPlan& plan) {
    decodes = prompt_tokens = 0;
    for (const ScheduledSequence& s : plan.sequences) {
      const bool decodes_one = s.sequence->num_output_tokens() > 0;
      (decodes_one ? decodes : prompt_tokens) += s.num_tokens;
    }
    return kBaseNs + prompt_tokens * kPromptTokenNs;
  };
  for (int64_t id = 0; id < 4; ++id) {
    Request request = make_request(id, std::vector<TokenId>(300, static_cast<TokenId>(id)), 1500);
    request.stop_tokens = {};
    ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  }
  while (simulation.outputs[3].size() < 10) simulation.step();
  Request request = make_request(9, std::vector<TokenId>(kPrompt, 33), 1);
  ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  int steps = 0;
  int64_t settled_ns = 0;
  while (!simulation.finished.contains(9)) {
    const int64_t begin_ns = simulation.clock.now_ns();
    simulation.step();
    ASSERT_EQ(decodes, 4) << "step " << steps;
    ASSERT_LE(simulation.clock.now_ns() - begin_ns, 2 * kBaseNs * 11 / 10) << "step " << steps;
    settled_ns = std::max(settled_ns, steps < 20 ? 0 : simulation.clock.now_ns() - begin_ns);
    ++steps;
  }
  EXPECT_LE(settled_ns, 2 * kBaseNs * 9 / 10);
  EXPECT_LE(steps, kPrompt / (kBaseNs * 76 / 100 / kPromptTokenNs) * 11 / 10);
}

TEST(Scheduler, TheEndOfACancelledRequestIsWork) {
  Simulation simulation(small_config(), 20);
  ASSERT_TRUE(simulation.scheduler.submit(make_request(1, std::vector<TokenId>(10, 1), 5)).ok());
  simulation.step();
  ASSERT_TRUE(simulation.scheduler.cancel(RequestId(1)));
  EXPECT_TRUE(simulation.scheduler.has_work());  // nothing runs, but its end is not told yet
  while (simulation.scheduler.has_work()) simulation.step();
  ASSERT_TRUE(simulation.finished.contains(1));
  EXPECT_EQ(simulation.finished.at(1).finish, FinishReason::kCancelled);
}

TEST(Scheduler, ASecondEqualPromptReusesAllButItsLastToken) {
  Simulation simulation(small_config(), 20);
  std::vector<TokenId> prompt(50, 3);
  for (int64_t id = 0; id < 2; ++id) {
    ASSERT_TRUE(simulation.scheduler.submit(make_request(id, prompt, 5)).ok());
    while (simulation.scheduler.has_work()) simulation.step();
  }
  EXPECT_EQ(simulation.finished.at(0).stats.cached_tokens, 0);
  EXPECT_EQ(simulation.finished.at(1).stats.cached_tokens, 49);
  EXPECT_EQ(simulation.outputs[0], simulation.outputs[1]);
}

TEST(Scheduler, EqualPromptsThatArriveTogetherAreComputedOnce) {
  SchedulerConfig config = small_config();
  config.batch_tokens_max = 64;
  Simulation simulation(config, 40);
  const std::vector<TokenId> prompt(96, 3);
  for (int64_t id = 0; id < 4; ++id)
    ASSERT_TRUE(simulation.scheduler.submit(make_request(id, prompt, 5)).ok());
  while (simulation.scheduler.has_work()) simulation.step();
  int64_t computed = 0;
  for (int64_t id = 0; id < 4; ++id) {
    computed += 96 - simulation.finished.at(id).stats.cached_tokens;
    EXPECT_EQ(simulation.outputs[id], simulation.outputs[0]);
  }
  // The prompt once, and for each other the last block: its last token is always computed.
  EXPECT_LE(computed, 96 + 3 * kBlockTokens);
}

TEST(Scheduler, TenantsShareNothing) {
  Simulation simulation(small_config(), 40);
  const std::vector<TokenId> prompt(50, 3);
  for (int64_t id = 0; id < 2; ++id) {
    Request request = make_request(id, prompt, 5);
    request.cache_salt = id == 0 ? "alice" : "bob";
    ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
    while (simulation.scheduler.has_work()) simulation.step();
    EXPECT_EQ(simulation.finished.at(id).stats.cached_tokens, 0);
  }
  EXPECT_EQ(simulation.outputs[0], simulation.outputs[1]);
}

TEST(Scheduler, RefusesWhatCanNeverFitWithTheNumbers) {
  Simulation simulation(small_config(), 4);  // 64 tokens of memory, 120 of context
  const Status too_long =
      simulation.scheduler.submit(make_request(1, std::vector<TokenId>(121, 1), 1));
  EXPECT_EQ(too_long.code(), ErrorCode::kResourceExhausted);
  EXPECT_NE(too_long.message().find("121"), std::string::npos);
  const Status too_big =
      simulation.scheduler.submit(make_request(2, std::vector<TokenId>(65, 1), 1));
  EXPECT_NE(too_big.message().find("--kv-memory"), std::string::npos);
  EXPECT_EQ(simulation.scheduler.submit(make_request(3, {}, 1)).code(),
            ErrorCode::kInvalidArgument);
  EXPECT_FALSE(simulation.scheduler.has_work());
}

TEST(Scheduler, SaysWhenTheContextIsFull) {
  SchedulerConfig config = small_config();
  config.context_length = 20;
  Simulation simulation(config, 20);
  Request request = make_request(1, std::vector<TokenId>(10, 1), 100);
  request.stop_tokens = {};
  ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  while (simulation.scheduler.has_work()) simulation.step();
  EXPECT_EQ(simulation.finished.at(1).finish, FinishReason::kContextFull);
  EXPECT_EQ(simulation.outputs[1].size(), 10u);
}

// ---- with a tier ----

// A tier that is slow (a load ends some polls later), fails now and then, and forgets.
class UnreliableTier : public KvTier {
 public:
  UnreliableTier(uint64_t capacity_bytes, uint64_t seed) : host_(capacity_bytes), random_(seed) {}

  std::string_view name() const override { return "unreliable"; }
  uint64_t capacity_bytes() const override { return host_.capacity_bytes(); }
  int lookup(std::span<const TierKey> keys, std::span<uint8_t> found) const override {
    return host_.lookup(keys, found);
  }
  bool store(const TierKey& key, std::span<const std::byte> bytes, int element_bytes) override {
    return random_.next_below(8) != 0 && host_.store(key, bytes, element_bytes);
  }
  void load(TransferId transfer, const TierKey& key, std::span<std::byte> into) override {
    if (random_.next_below(8) == 0) host_.remove(key);
    loading_.push_back({transfer, key, into, static_cast<int>(random_.next_below(4))});
  }
  void poll(std::vector<TierCompletion>& ended) override {
    std::vector<Load> later;
    for (Load& load : loading_) {
      if (load.polls-- > 0) {
        later.push_back(load);
        continue;
      }
      host_.load(load.transfer, load.key, load.into);
      host_.poll(ended);
      if (random_.next_below(10) == 0) {
        ended.back().outcome = TierOutcome::kCorrupt;
        std::fill(load.into.begin(), load.into.end(), std::byte{0xee});
      }
    }
    loading_ = std::move(later);
  }
  void remove(const TierKey& key) override { host_.remove(key); }
  TierStats stats() const override { return host_.stats(); }

 private:
  struct Load {
    TransferId transfer;
    TierKey key;
    std::span<std::byte> into;
    int polls = 0;
  };
  HostTier host_;
  Random random_;
  std::vector<Load> loading_;
};

std::vector<TokenId> family_prompt(Random& random, uint64_t families) {
  std::vector<TokenId> prompt;
  const uint64_t family = random.next_below(families);
  for (uint64_t n = 0, length = 1 + random.next_below(90); n < length; ++n)
    prompt.push_back(static_cast<TokenId>((n * 7 + family * 13) % 50));
  return prompt;
}

struct TierRun {
  std::map<int64_t, Request> asked;
  std::map<int64_t, std::vector<TokenId>> outputs;
  std::string trace;
  int64_t preemptions = 0;
  int64_t tier_failures = 0;  // misses that were counted as such
  int64_t steps_max = 0;      // from a request's arrival to its end
};

// A request here takes 120 tokens at most, 1 to 16 per step, behind 17 others at most; each can be
// set back by preemptions and by a tier that loses blocks.
constexpr int64_t kStepsMax = 1000;

// Random requests through a pool that is too small, above a tier. Everything ends, with the
// undisturbed output; nothing leaks; no request waits for more than a bounded number of steps.
void run_with_tier(const std::vector<KvGroupConfig>& groups, KvTier& tier, uint64_t seed,
                   int64_t steps, TierRun& run) {
  Simulation simulation(small_config(), groups, &tier);
  Random random(seed);
  std::map<int64_t, int64_t> waiting_since;
  for (int64_t step = 0; step < steps; ++step) {
    if (random.next_below(4) == 0 && simulation.scheduler.num_waiting() < 12) {
      Request request = make_request(step, family_prompt(random, 8),
                                     static_cast<int64_t>(random.next_below(30)));
      run.asked.emplace(step, request);
      waiting_since[step] = step;
      ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
    }
    if (random.next_below(60) == 0 && !waiting_since.empty()) {
      const int64_t id = waiting_since.begin()->first;
      if (simulation.scheduler.cancel(RequestId(id))) run.asked.erase(id);
    }
    simulation.step();
    for (auto it = waiting_since.begin(); it != waiting_since.end();) {
      const bool ended = simulation.finished.contains(it->first) || !run.asked.contains(it->first);
      ASSERT_LT(step - it->second, kStepsMax) << "request " << it->first << " starves";
      run.steps_max = std::max(run.steps_max, step - it->second);
      it = ended ? waiting_since.erase(it) : std::next(it);
    }
    if (testing::Test::HasFailure()) return;
  }
  for (int step = 0;
       simulation.scheduler.has_work() || simulation.scheduler.cache().has_promotions(); ++step) {
    ASSERT_LT(step, kStepsMax) << simulation.scheduler.num_waiting() << " requests starve";
    simulation.step();
  }
  for (const auto& [id, request] : run.asked) {
    ASSERT_TRUE(simulation.finished.contains(id)) << "request " << id << " was lost";
    const StepEvent& end = simulation.finished.at(id);
    ASSERT_EQ(simulation.outputs[id],
              expected_output(request.prompt, request.max_tokens,
                              simulation.scheduler.token_limit(), 7));
    run.preemptions += end.stats.preemptions;
    run.trace += fmt::format("{}:{}/{} ", id, end.stats.cached_tokens, end.stats.reuse.from_tier);
  }
  run.outputs = simulation.outputs;
  const KvCounters& counters = simulation.scheduler.cache().counters();
  EXPECT_GT(counters.blocks_stored, 0);
  EXPECT_GT(counters.blocks_restored, 0);
  EXPECT_GT(simulation.scheduler.counters().tokens_from_tier, 0);
  run.tier_failures = counters.misses[static_cast<size_t>(MissReason::kTierFailed)];
  int64_t counted = 0;
  for (const int64_t misses : counters.misses) {
    EXPECT_GE(misses, 0);
    counted += misses;
  }
  EXPECT_EQ(counted, counters.lookups) << "each look-up has one reason";
  simulation.scheduler.cache().clear();
  simulation.scheduler.check_invariants();
  for (size_t g = 0; g < groups.size(); ++g)
    EXPECT_EQ(simulation.scheduler.cache().free_blocks(static_cast<int>(g)), groups[g].total_blocks);
}

// QUIPU_KV_TEST_OPERATIONS: the nightly form asks for more steps.
int64_t tier_steps() {
  const char* wanted = std::getenv("QUIPU_KV_TEST_OPERATIONS");
  if (wanted != nullptr) return std::atoll(wanted) / 10;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 20'000;
#else
  return 100'000;
#endif
}

TEST(SchedulerWithTier, EveryRequestEndsWithItsOwnOutputAboveAnUnreliableTier) {
  UnreliableTier tier(1 << 20, 5);
  TierRun run;
  run_with_tier({{12, {}, 64}}, tier, 31, tier_steps(), run);
  EXPECT_GT(run.preemptions, 0);
  EXPECT_GT(run.tier_failures, 0);
  fmt::print("{} requests, {} preemptions, the longest took {} steps\n", run.asked.size(),
             run.preemptions, run.steps_max);
}

TEST(SchedulerWithTier, WindowedGroupsComeBackToo) {
  HostTier tier(1 << 20);
  TierRun run;
  run_with_tier({{12, {}, 64}, {9, {.window = 30}, 64}}, tier, 32, tier_steps() / 2, run);
}

TEST(SchedulerWithTier, WindowsComeBackWhereNoGroupKeepsEverything) {
  HostTier tier(1 << 20);
  TierRun run;
  run_with_tier({{8, {.window = 21}, 64}}, tier, 34, tier_steps() / 2, run);
}

TEST(SchedulerWithTier, TheSameSeedGivesTheSameTrace) {
  TierRun first, second;
  for (TierRun* run : {&first, &second}) {
    UnreliableTier tier(40'000, 5);
    run_with_tier({{12, {}, 64}}, tier, 33, 3000, *run);
  }
  EXPECT_EQ(first.trace, second.trace);
  EXPECT_EQ(first.outputs, second.outputs);
}

TEST(SchedulerWithTier, ARequestDoesNotWaitForATierThatHangs) {
  // Ends no load before it is told to.
  class HangingTier : public UnreliableTier {
   public:
    HangingTier() : UnreliableTier(1 << 20, 1) {}
    bool store(const TierKey& key, std::span<const std::byte> bytes, int size) override {
      while (!UnreliableTier::store(key, bytes, size)) {
      }
      return true;
    }
    void poll(std::vector<TierCompletion>& ended) override {
      if (!hangs) UnreliableTier::poll(ended);
    }
    bool hangs = true;
  };
  HangingTier tier;
  SchedulerConfig config = small_config();
  config.tier_wait_max_ns = 50'000'000;  // 50 steps
  Simulation simulation(config, {{8, {}, 64}}, &tier);
  const auto run_one = [&](int64_t id, TokenId first) {
    std::vector<TokenId> prompt(60);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = first + static_cast<TokenId>(i % 5);
    ASSERT_TRUE(simulation.scheduler.submit(make_request(id, prompt, 3)).ok());
    for (int step = 0; step < 200 && !simulation.finished.contains(id); ++step) simulation.step();
    ASSERT_TRUE(simulation.finished.contains(id));
  };
  for (int64_t id = 0; id < 4; ++id) run_one(id, static_cast<TokenId>(10 * id));
  run_one(4, 0);  // its prompt was evicted to the tier
  EXPECT_EQ(simulation.outputs[4], simulation.outputs[0]);
  EXPECT_EQ(simulation.scheduler.counters().tier_waits_given_up, 1);
  EXPECT_GT(simulation.scheduler.cache().block_states().in_flight, 0);
  tier.hangs = false;
  for (int step = 0; step < 20; ++step) simulation.step();
  EXPECT_EQ(simulation.scheduler.cache().block_states().in_flight, 0);
}

TEST(Scheduler, TwoEqualLongPromptsCostThePrefillOfOne) {
  SchedulerConfig config = {
      .batch_tokens_max = 600, .prefill_chunk_max = 512, .context_length = 8192};
  Simulation simulation(config, 600);
  std::vector<TokenId> prompt(4096);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i % 97);
  for (int64_t id = 0; id < 2; ++id)
    ASSERT_TRUE(simulation.scheduler.submit(make_request(id, prompt, 4)).ok());
  int64_t computed = 0;
  while (simulation.scheduler.has_work()) {
    simulation.step();
    for (const ScheduledSequence& s : simulation.plan.sequences) computed += s.num_tokens;
  }
  // The prompt once; of the second, the last block, whose last token's logits it needs; the output.
  EXPECT_LE(computed, 4096 + kBlockTokens + 2 * 4);
  const KvExplanation& second = simulation.finished.at(1).stats.reuse;
  EXPECT_EQ(second.waited_for, second.shared);
  EXPECT_GE(second.reused(), 4096 - kBlockTokens);
  EXPECT_EQ(simulation.outputs[0], simulation.outputs[1]);
}

TEST(Scheduler, SixteenRequestsCountTheirSharedBlocksOnce) {
  SchedulerConfig config = {
      .batch_tokens_max = 512, .prefill_chunk_max = 512, .context_length = 8192};
  Simulation simulation(config, 400);
  for (int64_t id = 0; id < 16; ++id) {
    std::vector<TokenId> prompt(2048 + 20);
    for (size_t i = 0; i < prompt.size(); ++i)
      prompt[i] = static_cast<TokenId>(i < 2048 ? i % 89 : 100 + id);
    Request request = make_request(id, prompt, 40);
    request.stop_tokens = {};
    ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  }
  int most_closed = 0, most_held = 0;
  while (simulation.scheduler.has_work()) {
    simulation.step();
    const KvBlockStates states = simulation.scheduler.cache().block_states();
    if (simulation.scheduler.num_running() < 16) continue;
    most_closed = std::max(most_closed, states.closed);
    most_held = std::max(most_held, states.closed + states.open);
  }
  constexpr int kShared = 2048 / kBlockTokens;
  constexpr int kOwn = (20 + 40 + kBlockTokens - 1) / kBlockTokens + 1;  // a request's own at most
  EXPECT_GE(most_closed, kShared);
  EXPECT_LE(most_held, kShared + 16 * kOwn);
}

// A model that looks at the newest token's window only, so that a step takes constant time.
class StreamedModel {
 public:
  explicit StreamedModel(const KvGroupConfig& group)
      : lifetime_(group.lifetime),
        slots_(static_cast<size_t>(group.total_blocks) * kBlockTokens, -1) {}

  TokenId run(const ScheduledSequence& scheduled) {
    const Sequence& sequence = *scheduled.sequence;
    const BlockTable& table = sequence.kv.tables[0];
    const auto expect = [&](int64_t p) {
      EXPECT_EQ(slots_[static_cast<size_t>(table.slot(p))], sequence.tokens[static_cast<size_t>(p)])
          << "position " << p;
    };
    const int64_t end = scheduled.first_position + scheduled.num_tokens;
    for (int64_t p = scheduled.first_position; p < end; ++p)
      slots_[static_cast<size_t>(table.slot(p))] = sequence.tokens[static_cast<size_t>(p)];
    for (int64_t p = 0; p < std::min<int64_t>(lifetime_.sinks, end); ++p) expect(p);
    expect(std::max<int64_t>(lifetime_.first_seen(end - 1), 0));
    expect(end - 1);
    return static_cast<TokenId>((sequence.tokens.back() * 31 + end) % 50);
  }

 private:
  KvLifetime lifetime_;
  std::vector<TokenId> slots_;
};

TEST(Scheduler, StreamsAMillionTokensInConstantMemory) {
  const KvGroupConfig group = {14, {.window = 100, .sinks = 4}};
  SchedulerConfig config = small_config();
  config.context_length = int64_t{1} << 31;
  FakeClock clock;
  Scheduler scheduler(config, {.groups = {group}, .block_tokens = kBlockTokens}, clock);
  EXPECT_EQ(scheduler.token_limit(), config.context_length);
  StreamedModel model(group);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int64_t kTokens = 50'000;
#else
  constexpr int64_t kTokens = 1'000'000;
#endif
  Request request = make_request(1, std::vector<TokenId>(300, 3), kTokens);
  request.stop_tokens = {};
  ASSERT_TRUE(scheduler.submit(std::move(request)).ok());
  StepPlan plan;
  std::vector<StepEvent> events;
  int blocks_max = 0;
  int64_t outputs = 0;
  size_t bytes_halfway = 0;
  for (int64_t step = 0; scheduler.has_work(); ++step) {
    scheduler.plan(plan);
    ASSERT_EQ(plan.sequences.size(), 1u);
    blocks_max = std::max(blocks_max, plan.sequences[0].sequence->kv.num_blocks());
    const std::vector<TokenId> next = {model.run(plan.sequences[0])};
    events.clear();
    scheduler.commit(plan, next, events);
    for (const StepEvent& event : events) outputs += event.token.has_value();
    if (step % (kTokens / 10) == 0) scheduler.check_invariants();
    if (outputs == kTokens / 2 && bytes_halfway == 0)
      bytes_halfway = scheduler.cache().index().index_bytes();
    if (testing::Test::HasFailure()) break;
  }
  EXPECT_EQ(outputs, kTokens);
  EXPECT_LE(blocks_max, 10);  // 1 of sinks, and 100 - 1 + 16 tokens that begin inside a block
  EXPECT_EQ(scheduler.cache().total_blocks(), 14);
  const KvBlockStates states = scheduler.cache().block_states();
  EXPECT_EQ(states.open + states.closed, 0);
  EXPECT_EQ(events.back().stats.preemptions, 0);
  // The index remembers one sequence by its tokens and little more, also of what has no block.
  const size_t bytes = scheduler.cache().index().index_bytes();
  EXPECT_LE(bytes, static_cast<size_t>(kTokens) * 64);
  EXPECT_GT(bytes, 0u);
  fmt::print("index: {} bytes halfway, {} at the end\n", bytes_halfway, bytes);
}

// Streamed sequences that push each other out go on as if nothing had happened.
TEST(Scheduler, StreamedSequencesSurvivePreemption) {
  SchedulerConfig config = small_config();
  config.context_length = 5000;
  Simulation simulation(config, std::vector<KvGroupConfig>{{14, {.window = 40, .sinks = 4}}});
  int preemptions = 0;
  for (int64_t id = 0; id < 6; ++id) {
    Request request = make_request(id, std::vector<TokenId>(static_cast<size_t>(20 + id), 3), 400);
    request.stop_tokens = {};
    ASSERT_TRUE(simulation.scheduler.submit(std::move(request)).ok());
  }
  while (simulation.scheduler.has_work()) simulation.step();
  for (int64_t id = 0; id < 6; ++id) {
    EXPECT_EQ(
        simulation.outputs[id],
        expected_output(std::vector<TokenId>(static_cast<size_t>(20 + id), 3), 400, 5000, -1));
    preemptions += simulation.finished.at(id).stats.preemptions;
  }
  EXPECT_GT(preemptions, 0);
}

}  // namespace
}  // namespace quipu
