#include "app/engine_thread.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>

#include "app/generation.h"
#include "app/synth_model.h"
#include "base/random.h"
#include "kv/host_tier.h"

namespace quipu {
namespace {

// The owner of one request: joins its updates and waits for its end.
class Owner {
 public:
  Owner() : outbox_(std::make_shared<GenerationOutbox>([bell = bell_] { bell->ring(); })) {}

  std::shared_ptr<GenerationOutbox> outbox() const { return outbox_; }

  const GenerationUpdate& wait_until(const std::function<bool(const GenerationUpdate&)>& done) {
    std::unique_lock lock(bell_->mutex);
    const bool in_time = bell_->rung.wait_for(lock, std::chrono::seconds(120), [&] {
      GenerationUpdate update = outbox_->take();
      if (update.progress.has_value()) progress_.push_back(*update.progress);
      ends_ += update.end.has_value() ? 1 : 0;
      all_.append(std::move(update));
      return done(all_);
    });
    EXPECT_TRUE(in_time) << "nothing came in two minutes";
    return all_;
  }
  const GenerationUpdate& wait_for_end() {
    return wait_until([](const GenerationUpdate& update) { return update.end.has_value(); });
  }
  FinishReason finish() { return wait_for_end().end->finish; }
  int ends() const { return ends_; }
  const std::vector<PromptProgress>& progress() const { return progress_; }

 private:
  // Shared with the engine thread, which may ring when the owner has its answer already.
  struct Bell {
    void ring() {
      {
        const std::lock_guard lock(mutex);
      }
      rung.notify_all();
    }
    std::mutex mutex;
    std::condition_variable rung;
  };

  std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  std::shared_ptr<GenerationOutbox> outbox_;
  GenerationUpdate all_;
  std::vector<PromptProgress> progress_;
  int ends_ = 0;
};

GenerationAsk ask_for(std::vector<TokenId> prompt, int64_t max_tokens, const Owner& owner) {
  GenerationAsk ask;
  ask.prompt = std::move(prompt);
  ask.params.sampling.temperature = 1;
  ask.params.max_tokens = max_tokens;
  ask.outbox = owner.outbox();
  return ask;
}

RequestId submit_one(EngineThread& thread, GenerationAsk ask) {
  std::vector<GenerationAsk> asks;
  asks.push_back(std::move(ask));
  const EngineThread::Submitted submitted = thread.submit(std::move(asks));
  EXPECT_EQ(submitted.outcome, EngineThread::Outcome::kAccepted);
  return submitted.ids.empty() ? RequestId(0) : submitted.ids.front();
}

EngineThread::Outcome outcome_of(EngineThread& thread, GenerationAsk ask) {
  std::vector<GenerationAsk> asks;
  asks.push_back(std::move(ask));
  return thread.submit(std::move(asks)).outcome;
}

// Blocks the engine thread between two steps until it is let go.
class Gate {
 public:
  explicit Gate(EngineThread& thread) {
    EXPECT_TRUE(thread.inspect([this](const EngineSnapshot&) {
      closed_ = true;
      while (!open_) std::this_thread::yield();
      left_ = true;
    }));
    while (!closed_) std::this_thread::yield();
  }
  ~Gate() {
    open_ = true;
    while (!left_) std::this_thread::yield();
  }

 private:
  std::atomic<bool> closed_ = false, open_ = false, left_ = false;
};

constexpr int64_t kLong = 100'000;  // more than any context here: runs until the context is full

// A tiny model with random weights and no vocabulary.
class EngineThreadTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    path_ = std::filesystem::temp_directory_path() / fmt::format("quipu-thread-{}.gguf", getpid());
    const Status status = synth_model({.shape = "tiny-llama", .type = DType::kQ8_0}, path_);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  static void TearDownTestSuite() { std::filesystem::remove(path_); }

  static std::unique_ptr<LoadedModel> load() {
    ModelOptions options;
    options.model = path_;
    options.threads = 1;
    options.kv_bytes = uint64_t{8} << 20;
    options.prefill_chunk = 16;
    return assemble(options).value();
  }

  static std::filesystem::path path_;
  std::unique_ptr<LoadedModel> model_ = load();
};
std::filesystem::path EngineThreadTest::path_;

TEST_F(EngineThreadTest, RunsARequestToItsEnd) {
  EngineThread thread(*model_, {});
  Owner owner;
  submit_one(thread, ask_for({1, 2, 3}, 8, owner));
  const GenerationUpdate& all = owner.wait_for_end();
  EXPECT_TRUE(all.started);
  EXPECT_EQ(all.token_ids.size(), 8u);
  EXPECT_EQ(all.end->finish, FinishReason::kLength);
  EXPECT_EQ(all.end->stats.completion_tokens, 8);
  EXPECT_EQ(owner.ends(), 1);
  EXPECT_EQ(thread.in_flight(), 0);
}

TEST_F(EngineThreadTest, APromptThatCannotFitIsRefusedWithTheNumbers) {
  EngineThread thread(*model_, {});
  Owner owner;
  submit_one(thread, ask_for(std::vector<TokenId>(100'000, 1), 8, owner));
  const GenerationUpdate& all = owner.wait_for_end();
  EXPECT_FALSE(all.started);
  EXPECT_EQ(all.end->status.code(), ErrorCode::kResourceExhausted);
  EXPECT_NE(all.end->status.message().find("100000"), std::string::npos);
  EXPECT_EQ(thread.in_flight(), 0);
}

TEST_F(EngineThreadTest, CancelEndsRunningAndWaitingRequestsOnce) {
  EngineThread thread(*model_, {.running_max = 1, .waiting_max = 4});
  Owner running, waiting;
  const RequestId first = submit_one(thread, ask_for({1, 2, 3}, kLong, running));
  running.wait_until([](const GenerationUpdate& update) { return !update.token_ids.empty(); });
  {
    const Gate gate(thread);  // the first cannot end by itself meanwhile
    const RequestId second = submit_one(thread, ask_for({4, 5, 6}, kLong, waiting));
    thread.cancel(first);
    thread.cancel(second);
    thread.cancel(second);
    thread.cancel(RequestId(999));
  }
  EXPECT_EQ(running.finish(), FinishReason::kCancelled);
  EXPECT_EQ(waiting.finish(), FinishReason::kCancelled);
  EXPECT_EQ(running.ends() + waiting.ends(), 2);
  EXPECT_EQ(thread.in_flight(), 0);
}

TEST_F(EngineThreadTest, AFullQueueTakesAllOfARequestOrNothing) {
  EngineThread thread(*model_, {.running_max = 1, .waiting_max = 2});
  const Gate gate(thread);
  Owner a, b, c, d;
  submit_one(thread, ask_for({1}, 1, a));
  std::vector<GenerationAsk> three;
  for (const Owner* owner : {&b, &c, &d}) three.push_back(ask_for({1}, 1, *owner));
  EXPECT_EQ(thread.submit(std::move(three)).outcome, EngineThread::Outcome::kQueueFull);
  EXPECT_EQ(thread.in_flight(), 1);
  submit_one(thread, ask_for({1}, 1, b));
  submit_one(thread, ask_for({1}, 1, c));
  EXPECT_EQ(outcome_of(thread, ask_for({1}, 1, d)), EngineThread::Outcome::kQueueFull);
}

TEST_F(EngineThreadTest, AFreePlaceGoesByPriorityThenArrival) {
  EngineThread thread(*model_, {.running_max = 1, .waiting_max = 8});
  std::vector<std::unique_ptr<Owner>> owners;
  {
    const Gate gate(thread);
    for (const int priority : {0, 5, 1, 5, -1}) {
      owners.push_back(std::make_unique<Owner>());
      GenerationAsk ask = ask_for({1, 2}, 4, *owners.back());
      ask.priority = priority;
      submit_one(thread, std::move(ask));
    }
  }
  std::vector<std::pair<int64_t, int>> order;
  for (int i = 0; i < 5; ++i) {
    const GenerationUpdate& all = owners[static_cast<size_t>(i)]->wait_for_end();
    order.emplace_back(*all.end->stats.started_ns, i);
  }
  std::sort(order.begin(), order.end());
  std::vector<int> ranks;
  for (const auto& [time, i] : order) ranks.push_back(i);
  EXPECT_EQ(ranks, (std::vector<int>{4, 0, 2, 1, 3}));
}

// A tenant with many requests does not make one with a single request wait for all of them.
TEST_F(EngineThreadTest, TenantsTakeTurnsForAFreePlace) {
  EngineThread thread(*model_, {.running_max = 1, .waiting_max = 16});
  std::vector<std::unique_ptr<Owner>> owners;
  {
    const Gate gate(thread);
    for (int i = 0; i < 9; ++i) {
      owners.push_back(std::make_unique<Owner>());
      GenerationAsk ask = ask_for({1, 2, static_cast<TokenId>(i)}, 4, *owners.back());
      ask.tenant = i < 8 ? "many" : "one";
      submit_one(thread, std::move(ask));
    }
  }
  const auto started = [&](size_t i) { return *owners[i]->wait_for_end().end->stats.started_ns; };
  EXPECT_LT(started(0), started(8));
  EXPECT_LT(started(8), started(2));
}

TEST_F(EngineThreadTest, LateRequestsEndWaitingOrRunning) {
  Owner running, waiting, late;
  EngineThread thread(*model_, {.running_max = 1, .waiting_max = 4});
  GenerationAsk ask = ask_for({1, 2, 3}, kLong, running);
  {
    const Gate gate(thread);  // all three arrive before a step
    ask.deadline_ns = model_->clock.now_ns() + 20'000'000;
    submit_one(thread, std::move(ask));
    ask = ask_for({4, 5, 6}, kLong, waiting);
    ask.deadline_ns = model_->clock.now_ns() + 5'000'000;
    submit_one(thread, std::move(ask));
    ask = ask_for({7, 8, 9}, kLong, late);
    ask.deadline_ns = model_->clock.now_ns();
    submit_one(thread, std::move(ask));
  }
  // The first may have filled its context just in time.
  const GenerationEnd& first = *running.wait_for_end().end;
  EXPECT_TRUE(first.finish == FinishReason::kDeadline ||
              first.finish == FinishReason::kContextFull);
  EXPECT_NE(waiting.finish(), FinishReason::kNone);
  EXPECT_EQ(late.finish(), FinishReason::kDeadline);
  EXPECT_EQ(late.wait_for_end().end->stats.completion_tokens, 0);
  EXPECT_EQ(running.ends() + waiting.ends() + late.ends(), 3);
  EXPECT_EQ(thread.in_flight(), 0);
}

TEST_F(EngineThreadTest, WhatARequestComputedCanBePinnedBeforeAnythingElseRuns) {
  Owner owner, other;
  EngineThread thread(*model_, {});
  const std::vector<TokenId> prompt(40, 7);
  std::optional<KvPins::Outcome> outcome;
  GenerationAsk ask = ask_for(prompt, 0, owner);
  ask.at_end = [&](KvPins& pins, const RequestStats& stats) {
    EXPECT_EQ(stats.prompt_tokens, 40);
    KvPin pin;
    pin.name = "p";
    pin.tokens = prompt;
    outcome = pins.pin(std::move(pin));
  };
  submit_one(thread, std::move(ask));
  EXPECT_EQ(owner.finish(), FinishReason::kLength);
  EXPECT_EQ(outcome, KvPins::Outcome::kPinned);
  // A request that does not come to its end pins nothing.
  ask = ask_for({1, 2, 3}, kLong, other);
  bool called = false;
  ask.at_end = [&](KvPins&, const RequestStats&) { called = true; };
  ask.deadline_ns = model_->clock.now_ns();
  submit_one(thread, std::move(ask));
  EXPECT_EQ(other.finish(), FinishReason::kDeadline);
  thread.stop();
  EXPECT_FALSE(called);
}

TEST_F(EngineThreadTest, StoppingGivesEveryRequestItsEnd) {
  Owner running, waiting, never;
  EngineThread thread(*model_, {.running_max = 1, .waiting_max = 4});
  submit_one(thread, ask_for({1, 2, 3}, kLong, running));
  running.wait_until([](const GenerationUpdate& update) { return update.started; });
  submit_one(thread, ask_for({1, 2, 3}, kLong, waiting));
  thread.stop();
  EXPECT_NE(running.finish(), FinishReason::kNone);  // cancelled, or the context was full just then
  EXPECT_NE(waiting.finish(), FinishReason::kNone);
  EXPECT_EQ(running.ends() + waiting.ends(), 2);
  EXPECT_EQ(outcome_of(thread, ask_for({1}, 1, never)), EngineThread::Outcome::kStopping);
  EXPECT_FALSE(thread.inspect([](const EngineSnapshot&) { FAIL(); }));
  EXPECT_EQ(thread.in_flight(), 0);
}

TEST_F(EngineThreadTest, DrainingFinishesWhatWasAccepted) {
  EngineThread thread(*model_, {});
  Owner accepted, refused;
  submit_one(thread, ask_for({1, 2, 3}, 20, accepted));
  thread.drain();
  EXPECT_EQ(outcome_of(thread, ask_for({1}, 1, refused)), EngineThread::Outcome::kStopping);
  EXPECT_EQ(accepted.finish(), FinishReason::kLength);
}

TEST_F(EngineThreadTest, InspectShowsWhatRuns) {
  EngineThread thread(*model_, {.running_max = 2, .waiting_max = 4});
  std::vector<std::unique_ptr<Owner>> owners;
  std::vector<EngineSnapshot::Task> running;
  int waiting = 0;
  std::atomic<bool> seen = false;
  {
    const Gate gate(thread);
    for (int i = 0; i < 3; ++i) {
      owners.push_back(std::make_unique<Owner>());
      submit_one(thread, ask_for({1, 2, 3}, kLong, *owners.back()));
    }
  }
  owners[1]->wait_until([](const GenerationUpdate& update) { return update.started; });
  ASSERT_TRUE(thread.inspect([&](const EngineSnapshot& snapshot) {
    running = snapshot.running;
    waiting = snapshot.waiting;
    EXPECT_GE(snapshot.metrics.step_time.total(), 1u);
    seen = true;
  }));
  while (!seen) std::this_thread::yield();
  ASSERT_EQ(running.size(), 2u);
  EXPECT_EQ(waiting, 1);
  EXPECT_EQ(running[0].place, 0);
  EXPECT_EQ(running[1].place, 1);
  EXPECT_EQ(running[0].prompt_tokens, 3);
  thread.stop();
}

TEST_F(EngineThreadTest, ReportsHowFarAPromptIs) {
  EngineThread thread(*model_, {});
  Owner owner;
  GenerationAsk ask = ask_for(std::vector<TokenId>(40, 7), 1, owner);
  ask.params.report_progress = true;
  submit_one(thread, std::move(ask));
  owner.wait_for_end();
  ASSERT_FALSE(owner.progress().empty());
  for (const PromptProgress& progress : owner.progress()) {
    EXPECT_EQ(progress.total, 40);
    EXPECT_TRUE(progress.processed == 16 || progress.processed == 32) << progress.processed;
  }
}

TEST_F(EngineThreadTest, LogProbabilitiesAreThoseOfTheModel) {
  EngineThread thread(*model_, {});
  Owner owner;
  GenerationAsk ask = ask_for({1, 2, 3}, 6, owner);
  ask.params.sampling.temperature = 0;
  ask.params.top_logprobs = 5;
  submit_one(thread, std::move(ask));
  const GenerationUpdate& all = owner.wait_for_end();
  ASSERT_EQ(all.logprobs.size(), all.token_ids.size());
  for (size_t i = 0; i < all.logprobs.size(); ++i) {
    const TokenLogprobs& logprobs = all.logprobs[i];
    ASSERT_EQ(logprobs.top.size(), 5u);
    EXPECT_EQ(logprobs.chosen.id, all.token_ids[i]);
    EXPECT_EQ(logprobs.top[0].id, all.token_ids[i]);  // greedy: the likeliest
    EXPECT_EQ(logprobs.top[0].logprob, logprobs.chosen.logprob);
    double mass = 0;
    for (size_t j = 0; j < 5; ++j) {
      mass += std::exp(logprobs.top[j].logprob);
      if (j == 0) continue;
      EXPECT_LE(logprobs.top[j].logprob, logprobs.top[j - 1].logprob);
    }
    EXPECT_GT(mass, 0);
    EXPECT_LE(mass, 1 + 1e-6);
  }
}

// A tier that ends no load before it is let go, and counts how often it is asked.
class HangingTier : public HostTier {
 public:
  HangingTier() : HostTier(uint64_t{64} << 20) {}
  void load(TransferId transfer, const TierKey& key, std::span<std::byte> into) override {
    HostTier::load(transfer, key, into);
    loading = true;
  }
  void poll(std::vector<TierCompletion>& ended) override {
    if (loading) ++polls;
    if (!hangs) HostTier::poll(ended);
  }
  std::atomic<bool> hangs = true, loading = false;
  std::atomic<int64_t> polls = 0;
};

TEST_F(EngineThreadTest, SleepsWhileEveryRequestWaitsForTheTier) {
  constexpr int kBlockTokens = 16;
  HangingTier tier;
  const KvCacheSpec spec =
      kv_cache_spec_for(model_->model->config(), KvFormat::kBF16, kBlockTokens);
  model_->engine =
      Engine::create(
          *model_->model, *model_->backend,
          {.block_tokens = kBlockTokens, .kv_bytes = 8 * spec.sequence_bytes(1, 1), .tier = &tier},
          model_->clock)
          .value();
  EngineThread thread(*model_, {});
  const auto prompt = [](TokenId first) {
    std::vector<TokenId> tokens;
    for (TokenId i = 0; i < 100; ++i) tokens.push_back(first + i);
    return tokens;
  };
  // Each takes 7 of the 8 blocks, so that the last one finds its beginning in the tier.
  for (const TokenId first : {0, 100}) {
    Owner owner;
    submit_one(thread, ask_for(prompt(first), 1, owner));
    owner.wait_for_end();
  }
  Owner owner;
  submit_one(thread, ask_for(prompt(0), 1, owner));
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!tier.loading && std::chrono::steady_clock::now() < patience) std::this_thread::yield();
  ASSERT_TRUE(tier.loading) << "nothing was brought back";
  const auto begin = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const int64_t polls = tier.polls;
  const auto elapsed_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                              std::chrono::steady_clock::now() - begin)
                              .count();
  EXPECT_LE(polls, elapsed_ms + 2);  // at most one look in a millisecond, however long that was
  EXPECT_FALSE(tier.polls == 0);
  tier.hangs = false;
  EXPECT_GT(owner.wait_for_end().end->stats.reuse.from_tier, 0);
  thread.stop();
  model_->engine.reset();  // before its tier
}

// Four threads submit, cancel and look in a random order; nothing is lost and nothing ends twice.
TEST_F(EngineThreadTest, ManyThreadsAtOnce) {
  EngineThread thread(*model_, {.running_max = 6, .waiting_max = 24, .inspections_max = 2});
  std::atomic<int> accepted = 0, ended = 0, refused = 0;
  const auto work = [&](uint64_t seed) {
    Random random(seed);
    std::vector<std::unique_ptr<Owner>> owners;
    for (int i = 0; i < 40; ++i) {
      owners.push_back(std::make_unique<Owner>());
      const auto length = static_cast<int64_t>(1 + random.next_below(30));
      GenerationAsk ask =
          ask_for({1, 2, static_cast<TokenId>(random.next_below(4))}, length, *owners.back());
      ask.priority = static_cast<int>(random.next_below(3));
      std::vector<GenerationAsk> asks;
      asks.push_back(std::move(ask));
      const EngineThread::Submitted submitted = thread.submit(std::move(asks));
      if (submitted.outcome != EngineThread::Outcome::kAccepted) {
        ++refused;
        owners.pop_back();
        std::this_thread::yield();
        continue;
      }
      ++accepted;
      if (random.next_below(3) == 0) thread.cancel(submitted.ids.front());
      if (random.next_below(4) == 0) (void)thread.inspect([](const EngineSnapshot&) {});
      if (random.next_below(2) == 0) owners[random.next_below(owners.size())]->wait_for_end();
    }
    for (const auto& owner : owners) {
      owner->wait_for_end();
      ended += owner->ends();
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& worker : threads) worker.join();
  EXPECT_EQ(ended, accepted);
  EXPECT_EQ(accepted + refused, 160);
  EXPECT_EQ(thread.in_flight(), 0);
  thread.stop();
  model_->engine->scheduler().check_invariants();
  EXPECT_EQ(model_->engine->scheduler().cache().block_states().open, 0);
}

// ---- with text: the built-in model

class EngineThreadText : public testing::Test {
 protected:
  void SetUp() override {
    const std::filesystem::path path =
        std::filesystem::path(QUIPU_SOURCE_DIR) / "models" / "quipu-stories-q8_0.gguf";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "the built-in model is not there: " << path;
    ModelOptions options;
    options.model = path;
    options.threads = 1;
    options.kv_bytes = uint64_t{64} << 20;
    model_ = assemble(options).value();
  }

  std::vector<TokenId> encode(const std::string& text) {
    return model_->tokenizer->encode(text).value();
  }

  std::unique_ptr<LoadedModel> model_;
};

TEST_F(EngineThreadText, ASeededRequestIsTheSameAloneAndAmongFifteenOthers) {
  GenerationParams params;
  params.sampling.temperature = 1;
  params.sampling.seed = 42;
  params.max_tokens = 40;
  const std::vector<TokenId> prompt = encode("Once upon a time there was a goat");
  const GenerationResult alone = generate(*model_, prompt, params, {}).value();
  model_->engine->scheduler().cache().clear();

  EngineThread thread(*model_, {.running_max = 16});
  std::vector<std::unique_ptr<Owner>> owners;
  for (uint64_t i = 0; i < 16; ++i) {
    owners.push_back(std::make_unique<Owner>());
    GenerationAsk ask = ask_for(prompt, 40, *owners.back());
    ask.params = params;
    if (i != 7) {
      ask.prompt = encode(i % 2 == 0 ? "Once upon a time there was a hen" : "The lion said");
      ask.params.sampling.seed = i;
    }
    submit_one(thread, std::move(ask));
  }
  for (const auto& owner : owners) owner->wait_for_end();
  const GenerationUpdate& among = owners[7]->wait_for_end();
  EXPECT_EQ(among.token_ids, alone.token_ids);
  EXPECT_EQ(among.text, alone.text);
  EXPECT_NE(owners[8]->wait_for_end().token_ids, alone.token_ids);
}

// A step whose drafts come true shows several rows of logits before it tells their tokens, and the
// last row may be that of a stop token, which is never told.
TEST_F(EngineThreadText, LogProbabilitiesAreOfEachTokensOwnRow) {
  GenerationParams params;
  params.top_logprobs = 1;
  params.max_tokens = 8;
  GenerationTask task(*model_, RequestId(1), params);
  const Request request = *task.make_request({5, 6});
  ASSERT_TRUE(request.on_logits);
  const auto vocab = static_cast<size_t>(model_->model->config().vocab_size);
  std::vector<float> row(vocab, 0.0f);
  for (const size_t likeliest : {10u, 20u, 30u}) {
    row.assign(vocab, 0.0f);
    row[likeliest] = 5.0f;
    request.on_logits(static_cast<int64_t>(likeliest), row);
  }
  GenerationUpdate update;
  for (const TokenId token : {10, 20}) {
    StepEvent event;
    event.id = RequestId(1);
    event.token = token;
    task.take(event, update);
  }
  ASSERT_EQ(update.logprobs.size(), 2u);
  const auto expected = static_cast<float>(5.0 - std::log(std::exp(5.0) + static_cast<double>(vocab) - 1));
  for (const size_t i : {0u, 1u}) {
    EXPECT_EQ(update.logprobs[i].chosen.id, update.token_ids[i]);
    EXPECT_EQ(update.logprobs[i].top.front().id, update.token_ids[i]);
    EXPECT_NEAR(update.logprobs[i].chosen.logprob, expected, 1e-4);
  }
  StepEvent end;
  end.id = RequestId(1);
  end.finish = FinishReason::kStop;
  task.take(end, update);
  EXPECT_EQ(update.logprobs.size(), 2u);
}

TEST_F(EngineThreadText, AStopStringEndsTheOutputBeforeItAndFreesThePlace) {
  const std::vector<TokenId> prompt = encode("Once upon a time");
  GenerationParams params;
  params.sampling.temperature = 0;
  params.max_tokens = 60;
  const std::string whole = generate(*model_, prompt, params, {}).value().text;
  ASSERT_GT(whole.size(), 60u);
  const std::string stop = whole.substr(30, 5);

  EngineThread thread(*model_, {});
  Owner owner;
  GenerationAsk ask = ask_for(prompt, kLong, owner);
  ask.params = params;
  ask.params.stop = {"no such text", stop};
  submit_one(thread, std::move(ask));
  const GenerationUpdate& all = owner.wait_for_end();
  EXPECT_EQ(all.text, whole.substr(0, whole.find(stop)));
  EXPECT_EQ(all.end->finish, FinishReason::kStop);
  EXPECT_EQ(all.end->stop_string, stop);
  EXPECT_LT(all.token_ids.size(), 60u);
  EXPECT_EQ(thread.in_flight(), 0);
}

}  // namespace
}  // namespace quipu
