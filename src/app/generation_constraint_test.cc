// Constrained outputs through the engine: what comes out follows the schema, and is the same text
// alone, in company, preempted, in chunks and with drafts.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/generation.h"
#include "app/output_constraint.h"

namespace quipu {
namespace {

constexpr const char* kSchema = R"({"type": "object", "required": ["name", "friends", "happy"],
  "properties": {"name": {"type": "string", "maxLength": 20},
                 "friends": {"type": "array", "maxItems": 3,
                             "items": {"type": "string", "maxLength": 12}},
                 "happy": {"type": "boolean"}}})";

bool follows_schema(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.size() == 3 && json["name"].is_string() &&
         json["friends"].is_array() && json["friends"].size() <= 3 && json["happy"].is_boolean();
}

// A microsecond for every reading, so that how long a step or a look for guesses takes follows from
// what is done and not from the machine.
class CountingClock : public Clock {
 public:
  int64_t now_ns() const override { return 1000 * ++readings_; }

 private:
  mutable int64_t readings_ = 0;
};

class ConstrainedGeneration : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(QUIPU_SOURCE_DIR) / "models" / "quipu-stories-q8_0.gguf";
    load({.forced_tokens_max = 0});
  }

  void load(ModelOptions options) {
    options.model = path_;
    options.threads = 1;
    if (!options.kv_bytes.has_value()) options.kv_bytes = uint64_t{64} << 20;
    model_ = assemble(options).value();
    compiler_ = std::make_unique<ConstraintCompiler>(*model_->tokenizer);
  }

  // The same model in an engine by counting_clock_.
  void count_time(int forced_tokens_max) {
    const EngineConfig config = {.kv_bytes = uint64_t{64} << 20,
                                 .forced_tokens_max = forced_tokens_max};
    model_->engine =
        Engine::create(*model_->model, *model_->backend, config, counting_clock_).value();
  }

  GenerationParams params(uint64_t seed, const ConstraintSource& source) {
    GenerationParams params;
    params.sampling.temperature = 1;
    params.sampling.seed = seed;
    params.max_tokens = 400;
    params.constraint =
        std::make_shared<const Constraint>(std::move(compiler_->compile(source)).value());
    return params;
  }
  GenerationParams params(uint64_t seed) {
    return params(seed, {ConstraintKind::kJsonSchema, kSchema});
  }

  std::vector<TokenId> encode(const std::string& text) {
    return model_->tokenizer->encode(text).value();
  }
  GenerationResult run(const std::string& prompt, const GenerationParams& params) {
    return generate(*model_, encode(prompt), params, {}).value();
  }

  // All of them at once in one engine; their texts.
  std::vector<std::string> run_together(const std::vector<GenerationParams>& all,
                                        int64_t* preemptions = nullptr) {
    std::vector<std::unique_ptr<GenerationTask>> tasks;
    std::vector<GenerationUpdate> updates(all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      tasks.push_back(std::make_unique<GenerationTask>(
          *model_, RequestId(static_cast<int64_t>(i) + 1), all[i]));
      Request request =
          tasks.back()->make_request(encode("Once upon a time " + std::to_string(i))).value();
      EXPECT_TRUE(model_->engine->submit(std::move(request)).ok());
    }
    while (model_->engine->has_work()) {
      for (const StepEvent& event : model_->engine->step()) {
        const auto i = static_cast<size_t>(event.id.value() - 1);
        GenerationUpdate update;
        tasks[i]->take(event, update);
        updates[i].append(std::move(update));
      }
    }
    std::vector<std::string> texts;
    for (const GenerationUpdate& update : updates) {
      texts.push_back(update.text);
      if (preemptions != nullptr) *preemptions += update.end->stats.preemptions;
    }
    return texts;
  }

  std::filesystem::path path_;
  const CountingClock counting_clock_;
  std::unique_ptr<LoadedModel> model_;
  std::unique_ptr<ConstraintCompiler> compiler_;
};

TEST_F(ConstrainedGeneration, FollowsTheSchemaWhateverIsDrawn) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    GenerationParams asked = params(seed);
    asked.sampling.temperature = seed % 3 == 0 ? 0.0f : static_cast<float>(seed);
    asked.sampling.top_k = seed % 4 == 1 ? 5 : 0;
    asked.sampling.top_p = seed % 4 == 2 ? 0.9f : 1.0f;
    asked.sampling.repetition_penalty = seed % 5 == 3 ? 1.3f : 1.0f;
    const GenerationResult result = run("Once upon a time", asked);
    EXPECT_EQ(result.finish, FinishReason::kStop) << result.text;
    EXPECT_TRUE(follows_schema(result.text)) << result.text;
  }
}

TEST_F(ConstrainedGeneration, EndsWithItsLastTokenWithoutAnotherStep) {
  const GenerationResult result =
      run("Once upon a time", params(1, {ConstraintKind::kChoice, R"(["yes", "no"])"}));
  EXPECT_TRUE(result.text == "yes" || result.text == "no") << result.text;
  EXPECT_EQ(result.finish, FinishReason::kStop);
  EXPECT_EQ(model_->tokenizer->decode(result.token_ids), result.text);
}

TEST_F(ConstrainedGeneration, ABiasChoosesAmongWhatIsAllowedOnly) {
  GenerationParams asked = params(1, {ConstraintKind::kChoice, R"(["yes", "no"])"});
  const TokenId yes = encode("y").back(), other = encode("z").back();
  asked.sampling.logit_bias = {{other, 100.0f}};
  EXPECT_NE(run("Once", asked).text.front(), 'z');
  asked.sampling.logit_bias = {{yes, -1e9f}};  // one allowed token fewer, but never none
  for (uint64_t seed = 0; seed < 4; ++seed) {
    asked.sampling.seed = seed;
    const std::string text = run("Once", asked).text;
    EXPECT_TRUE(text == "yes" || text == "no") << text;
  }
}

TEST_F(ConstrainedGeneration, TheSameAloneAndAmongOthersPreemptedInChunksAndWithDrafts) {
  std::vector<GenerationParams> all;
  for (uint64_t i = 0; i < 16; ++i) {
    all.push_back(i % 3 == 2 ? GenerationParams{} : params(i));
    all.back().sampling.temperature = i % 4 == 1 ? 0.0f : 1.0f;
    all.back().sampling.seed = i;
    all.back().max_tokens = i % 3 == 2 ? 60 : 400;
  }
  std::vector<std::string> alone;
  for (size_t i = 0; i < all.size(); ++i)
    alone.push_back(run("Once upon a time " + std::to_string(i), all[i]).text);
  EXPECT_EQ(run_together(all), alone);

  for (const int forced : {0, 8}) {
    ModelOptions small;
    small.kv_bytes = uint64_t{1} << 20;
    small.prefill_chunk = 3;
    small.forced_tokens_max = forced;
    load(small);
    int64_t preemptions = 0;
    EXPECT_EQ(run_together(all, &preemptions), alone);
    EXPECT_GT(preemptions, 0);
    EXPECT_EQ(model_->engine->scheduler().counters().forced_proposed > 0, forced > 0);
  }

  for (const auto& [drafts, forced] : {std::pair(7, 0), std::pair(0, 8), std::pair(7, 3)}) {
    ModelOptions drafting;
    drafting.draft_tokens_max = drafts;
    drafting.forced_tokens_max = forced;
    load(drafting);
    EXPECT_EQ(run_together(all), alone);
    for (size_t i = 0; i < all.size(); ++i)
      EXPECT_EQ(run("Once upon a time " + std::to_string(i), all[i]).text, alone[i]);
    const SchedulerCounters& counters = model_->engine->scheduler().counters();
    EXPECT_EQ(counters.forced_accepted > 0, forced > 0);
    EXPECT_GE(counters.drafts_accepted, counters.forced_accepted);
  }
}

// Where one text must follow, its tokens are guessed and checked together: fewer steps, the same
// tokens, and statistics of which guesses these were.
TEST_F(ConstrainedGeneration, WhatMustFollowComesInFewerSteps) {
  GenerationParams asked = params(
      5, {ConstraintKind::kRegex, "Once upon a time, there was a (little|big) (girl|dog)\\."});
  asked.sampling.temperature = 0;
  const GenerationResult plain = run("A story. ", asked);
  const int64_t steps = model_->engine->statistics().steps;
  count_time(8);  // looking costs less than a step, under sanitizers too
  const GenerationResult forced = run("A story. ", asked);
  EXPECT_EQ(forced.token_ids, plain.token_ids);
  EXPECT_EQ(forced.finish, FinishReason::kStop);
  const EngineStatistics statistics = model_->engine->statistics();
  const SchedulerCounters& counters = statistics.scheduler;
  EXPECT_LT(statistics.steps, steps);
  EXPECT_EQ(statistics.steps, steps - counters.forced_accepted);
  EXPECT_EQ(counters.drafts_accepted, counters.forced_accepted);
  EXPECT_EQ(counters.drafts_proposed, counters.forced_proposed);
  EXPECT_EQ(forced.stats.drafts_accepted, counters.forced_accepted);
}

TEST_F(ConstrainedGeneration, GuessesSpellWhatMustFollow) {
  const auto guess = [&](TokenConstraint& constraint, int tokens_max) {
    std::vector<TokenId> tokens;
    constraint.guess(tokens_max, tokens);
    EXPECT_LE(tokens.size(), static_cast<size_t>(tokens_max));
    std::string text;
    for (const TokenId token : tokens) text += model_->tokenizer->piece(token);
    return text;
  };
  const Constraint compiled =
      compiler_->compile({ConstraintKind::kRegex, "Once upon a time (yes|no)!"}).value();
  const auto constraint = OutputConstraint::start(compiled, *model_->tokenizer).value();
  EXPECT_EQ(guess(*constraint, 64), "Once upon a time");  // " yes" and " no" are tokens
  EXPECT_TRUE(std::string("Once upon a time ").starts_with(guess(*constraint, 2)));
  // Asking changes nothing, and guesses follow all the way.
  std::string text;
  const std::vector<TokenId> tokens =
      model_->tokenizer->encode("Once upon a time yes", {.add_special = false}).value();
  for (const TokenId token : tokens) {
    text += model_->tokenizer->piece(token);
    ASSERT_TRUE(constraint->accept(token).ok()) << text;
    const std::string all = text.ends_with("yes") ? "Once upon a time yes!" : "Once upon a time";
    EXPECT_EQ(text + guess(*constraint, 64), all);
  }
  ASSERT_TRUE(constraint->accept(*model_->tokenizer->find("!")).ok());
  EXPECT_TRUE(constraint->is_complete());
  EXPECT_EQ(guess(*constraint, 64), "");
}

// Drafts that come true inside a constrained output, and one that is complete in the middle of
// them.
TEST_F(ConstrainedGeneration, DraftsComeTrueUnderAConstraint) {
  const ConstraintSource source{ConstraintKind::kRegex, "(one two three four five ){12}end"};
  GenerationParams asked = params(3, source);
  asked.sampling.temperature = 0;
  const std::string prompt = "one two three four five one two three four five end. one two";
  const GenerationResult plain = run(prompt, asked);
  ModelOptions drafting;
  drafting.draft_tokens_max = 7;
  load(drafting);
  const GenerationResult drafted = run(prompt, asked);
  EXPECT_EQ(drafted.token_ids, plain.token_ids);
  EXPECT_EQ(drafted.finish, plain.finish);
  EXPECT_GT(model_->engine->scheduler().counters().drafts_accepted, 0);
}

// A constraint that gives up after some tokens.
class GivesUp : public TokenConstraint {
 public:
  GivesUp(int after, size_t vocabulary) : left_(after), words_((vocabulary + 31) / 32, ~0u) {}
  Result<std::span<const uint32_t>> allowed() override {
    if (left_ == 0) return make_error(ErrorCode::kResourceExhausted, "enough");
    return std::span<const uint32_t>(words_);
  }
  Status accept(TokenId) override {
    --left_;
    return Status::ok_status();
  }
  bool is_complete() const override { return false; }

 private:
  int left_;
  std::vector<uint32_t> words_;
};

TEST_F(ConstrainedGeneration, OneThatCannotGoOnEndsWithTheReason) {
  for (const int after : {0, 3}) {
    GenerationTask task(*model_, RequestId(1), {.max_tokens = 10});
    Request request = task.make_request(encode("Once upon")).value();
    request.constraint = std::make_shared<GivesUp>(after, model_->tokenizer->vocab_size());
    request.stop_tokens.clear();
    ASSERT_TRUE(model_->engine->submit(std::move(request)).ok());
    GenerationUpdate all;
    while (model_->engine->has_work()) {
      for (const StepEvent& event : model_->engine->step()) {
        GenerationUpdate update;
        task.take(event, update);
        all.append(std::move(update));
      }
      model_->engine->scheduler().check_invariants();
    }
    ASSERT_TRUE(all.end.has_value());
    EXPECT_EQ(all.end->finish, FinishReason::kConstraint);
    EXPECT_EQ(all.end->status.code(), ErrorCode::kResourceExhausted);
    EXPECT_NE(all.end->status.message().find("enough"), std::string::npos);
    EXPECT_EQ(all.token_ids.size(), static_cast<size_t>(after));
    EXPECT_EQ(all.end->stats.completion_tokens, after);
  }
}

}  // namespace
}  // namespace quipu
