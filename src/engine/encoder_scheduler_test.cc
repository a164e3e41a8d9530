// Simulation of the scheduler for encoder-decoder models, with a fake one whose "keys and values"
// say which input and which tokens they belong to: whatever a step reads must be what it believes,
// in the decoder's pool and in that of encoded inputs.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "base/random.h"
#include "engine/scheduler.h"

namespace quipu {
namespace {

constexpr int kBlockTokens = 16;
constexpr TokenId kStop = 7;

uint64_t hash_of(std::span<const TokenId> tokens, uint64_t hash = 1469598103934665603ull) {
  for (const TokenId token : tokens)
    hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211ull;
  return hash;
}

TokenId fake_next(std::span<const TokenId> input, std::span<const TokenId> tokens) {
  return static_cast<TokenId>(hash_of(tokens, hash_of(input)) >> 40) % 50;
}

class FakeModel {
 public:
  FakeModel(int blocks, int input_blocks)
      : slots_(static_cast<size_t>(blocks) * kBlockTokens),
        input_slots_(static_cast<size_t>(input_blocks) * kBlockTokens) {}

  std::vector<TokenId> run(const StepPlan& plan) {
    for (const KvCopy& copy : plan.copies) {
      std::copy_n(slots_.begin() + copy.from.value() * kBlockTokens, kBlockTokens,
                  slots_.begin() + copy.to.value() * kBlockTokens);
    }
    for (const EncodeTask& task : plan.encodes) {
      ++encodes;
      for (size_t t = 0; t < task.input.size(); ++t)
        input_slot(task.blocks[t / kBlockTokens], t) = hash_of(task.input) + t;
    }
    std::vector<TokenId> next;
    for (const ScheduledSequence& scheduled : plan.sequences) {
      attend(scheduled);
      const Sequence& sequence = *scheduled.sequence;
      next.push_back(fake_next(sequence.request.input, sequence.tokens));
    }
    return next;
  }

  int encodes = 0;

 private:
  uint64_t& input_slot(BlockId block, size_t token) {
    return input_slots_[static_cast<size_t>(block.value()) * kBlockTokens + token % kBlockTokens];
  }

  void attend(const ScheduledSequence& scheduled) {
    const Sequence& sequence = *scheduled.sequence;
    const std::vector<TokenId>& input = sequence.request.input;
    ASSERT_TRUE(sequence.encoding.valid());
    ASSERT_EQ(sequence.encoding.num_tokens(), static_cast<int64_t>(input.size()));
    for (size_t t = 0; t < input.size(); ++t) {
      const BlockId block = sequence.encoding.blocks()[t / kBlockTokens].id();
      ASSERT_EQ(input_slot(block, t), hash_of(input) + t) << "another input's encoding";
    }
    for (int64_t p = 0; p < scheduled.first_position + scheduled.num_tokens; ++p) {
      uint64_t& slot = slots_[static_cast<size_t>(sequence.kv.tables[0].slot(p))];
      const uint64_t mine =
          hash_of(std::span(sequence.tokens).first(static_cast<size_t>(p + 1)), hash_of(input));
      if (p >= scheduled.first_position) slot = mine;
      ASSERT_EQ(slot, mine) << "position " << p << " of another sequence";
    }
  }

  std::vector<uint64_t> slots_, input_slots_;
};

struct Settings {
  int blocks = 0, input_blocks = 0;
  bool keep_kv = true;
};

class EncoderScheduler : public testing::TestWithParam<Settings> {};

// Many requests with a few inputs in pools that are far too small, preempted and cancelled.
TEST_P(EncoderScheduler, EveryRequestGetsItsOwnOutputUnderPressure) {
  const Settings& settings = GetParam();
  FakeClock clock;
  Scheduler scheduler({.batch_tokens_max = 24,
                       .prefill_chunk_max = 16,
                       .sequences_max = 5,
                       .context_length = 120,
                       .keep_kv = settings.keep_kv,
                       .inputs = EncodingCacheConfig{.total_blocks = settings.input_blocks,
                                                     .block_tokens = kBlockTokens,
                                                     .keep = settings.keep_kv}},
                      {.groups = {{settings.blocks, {}}},
                       .block_tokens = kBlockTokens,
                       .publish = settings.keep_kv},
                      clock);
  FakeModel model(settings.blocks, settings.input_blocks);
  Random random(31);
  std::map<int64_t, Request> asked;
  std::map<int64_t, std::vector<TokenId>> outputs;
  std::map<int64_t, StepEvent> finished;
  StepPlan plan;
  const auto step = [&] {
    std::vector<StepEvent> events;
    scheduler.take_cancelled(events);
    scheduler.plan(plan);
    size_t encoded = 0;
    for (const EncodeTask& task : plan.encodes) encoded += task.input.size();
    // Several only where all of them fit.
    if (settings.keep_kv && plan.encodes.size() > 1) {
      EXPECT_LE(encoded, 24u);
    }
    if (!plan.empty()) scheduler.commit(plan, model.run(plan), events);
    for (const StepEvent& event : events) {
      if (event.token) outputs[event.id.value()].push_back(*event.token);
      if (event.finish == FinishReason::kNone) continue;
      EXPECT_FALSE(finished.contains(event.id.value())) << "two terminal events";
      finished[event.id.value()] = event;
    }
    scheduler.check_invariants();
  };
  for (int64_t round = 0; round < 3000; ++round) {
    if (random.next_below(4) == 0 && scheduler.num_waiting() < 20) {
      Request request;
      request.id = RequestId(round);
      const auto family = static_cast<TokenId>(random.next_below(6));
      request.input.assign(1 + static_cast<size_t>(family) * 13, family);
      request.prompt.assign(1 + random.next_below(3) * 12, 3);
      request.sampling.temperature = 0;
      request.max_tokens = static_cast<int64_t>(random.next_below(40));
      request.stop_tokens = {kStop};
      if (family == 5) request.cache_salt = "tenant";
      asked.emplace(round, request);
      ASSERT_TRUE(scheduler.submit(std::move(request)).ok());
    }
    if (random.next_below(40) == 0 && !asked.empty()) {
      auto it = asked.begin();
      std::advance(it, static_cast<ptrdiff_t>(random.next_below(asked.size())));
      if (!finished.contains(it->first)) scheduler.cancel(RequestId(it->first));
    }
    step();
    if (HasFatalFailure()) return;
  }
  while (scheduler.has_work()) step();

  ASSERT_EQ(finished.size(), asked.size());
  int preemptions = 0;
  for (const auto& [id, request] : asked) {
    preemptions += finished.at(id).stats.preemptions;
    std::vector<TokenId> tokens = request.prompt, expected;
    while (static_cast<int64_t>(expected.size()) < request.max_tokens) {
      const TokenId next = fake_next(request.input, tokens);
      if (next == kStop) break;
      tokens.push_back(next);
      expected.push_back(next);
    }
    const std::vector<TokenId>& got = outputs[id];
    if (finished.at(id).finish == FinishReason::kCancelled) {
      ASSERT_LE(got.size(), expected.size());
      expected.resize(got.size());
    }
    EXPECT_EQ(got, expected) << "request " << id;
  }
  EXPECT_GT(preemptions, 0);
  constexpr int kInputs = 6;
  if (settings.keep_kv && settings.input_blocks >= 40) {
    EXPECT_EQ(model.encodes, kInputs) << "each input once";
  } else {
    EXPECT_GT(model.encodes, kInputs);
  }
  if (settings.keep_kv) {
    EXPECT_GT(scheduler.inputs()->counters().inputs_reused, 0);
    EXPECT_LT(model.encodes, static_cast<int>(asked.size()));
  }
  scheduler.inputs()->clear();
  scheduler.cache().clear();
  EXPECT_EQ(scheduler.inputs()->free_blocks(), settings.input_blocks);
  EXPECT_EQ(scheduler.cache().free_blocks(), settings.blocks);
  EXPECT_EQ(scheduler.cache().index().num_roots(), 0);
}

INSTANTIATE_TEST_SUITE_P(Pools, EncoderScheduler,
                         testing::Values(Settings{8, 40}, Settings{8, 6},
                                         Settings{
                                             .blocks = 8, .input_blocks = 6, .keep_kv = false}),
                         [](const auto& test) {
                           return std::string(test.param.keep_kv ? "keep" : "drop") +
                                  (test.param.input_blocks == 6 ? "_tight" : "_roomy");
                         });

}  // namespace
}  // namespace quipu
