// The library as a program that embeds it meets it: public headers only, linked to the shared
// library.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include <quipu/quipu.h>

namespace {

const std::string kModelPath = QUIPU_SOURCE_DIR "/models/quipu-stories-q8_0.gguf";
const std::string kBeginning = "Once upon a time there was a goat";

// One model for all tests: loading it is most of their time.
class LibraryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (model_ != nullptr) return;
    quipu::Result<quipu::Model> loaded =
        quipu::Model::load({.path = kModelPath, .threads = 2, .kv_bytes = 32 << 20});
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = new quipu::Model(*loaded);
  }
  static void TearDownTestSuite() {
    delete model_;
    model_ = nullptr;
  }

  static quipu::GenerationRequest request(int64_t tokens, uint64_t seed) {
    quipu::GenerationRequest result{.prompt = kBeginning};
    result.options = {.max_tokens = tokens, .ignore_eos = true};
    result.options.sampling.seed = seed;
    return result;
  }

  static quipu::Model* model_;
};
quipu::Model* LibraryTest::model_ = nullptr;

template <typename T>
quipu::ErrorCode code_of(const quipu::Result<T>& result) {
  EXPECT_FALSE(result.ok());
  return result.ok() ? quipu::ErrorCode{} : result.error().code;
}

TEST(LibraryErrors, SayWhatIsWrong) {
  EXPECT_EQ(code_of(quipu::Model::load({})), quipu::ErrorCode::kInvalidArgument);
  const auto absent = quipu::Model::load({.path = "/no/such/model.gguf"});
  EXPECT_EQ(code_of(absent), quipu::ErrorCode::kNotFound);
  EXPECT_NE(absent.error().message.find("/no/such/model.gguf"), std::string::npos);
  EXPECT_EQ(quipu::error_code_name(quipu::ErrorCode::kCorruptData), "corrupt_data");
  const auto refused = [](const quipu::ModelOptions& options, const char* name) {
    const auto plan = quipu::Model::plan(options);
    EXPECT_EQ(code_of(plan), quipu::ErrorCode::kInvalidArgument) << name;
    EXPECT_NE(plan.error().message.find(name), std::string::npos) << plan.error().message;
  };
  refused({.path = "x", .threads = -1}, "threads");
  refused({.path = "x", .isa = "sse9"}, "isa");
  refused({.path = "x", .kv_format = "int5"}, "kv_format");
  refused({.path = "x", .weights = "q99"}, "weights");
  refused({.path = "x", .running_max = 0}, "running_max");
  const std::filesystem::path broken =
      std::filesystem::temp_directory_path() / "quipu-library-test-broken.gguf";
  std::ofstream(broken) << std::string("GGUF\3\0\0\0 and no tensor", 22);
  EXPECT_EQ(code_of(quipu::Model::load({.path = broken})), quipu::ErrorCode::kCorruptData);
  std::filesystem::remove(broken);
}

TEST(LibraryErrorsDeathTest, AValueThatIsNotThereEndsTheProgramWithTheReason) {
  EXPECT_DEATH((void)quipu::Model::load({.path = "/no/such/model"}).value(), "/no/such/model");
}

TEST_F(LibraryTest, PlansWhatLoadingTakes) {
  const auto plan = quipu::Model::plan({.path = kModelPath, .kv_bytes = 32 << 20});
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(plan->context_tokens, model_->info().context_tokens);
  EXPECT_EQ(plan->kv_bytes, 32u << 20);
  EXPECT_GT(plan->weight_bytes, std::filesystem::file_size(kModelPath) * 9 / 10);
  EXPECT_LT(plan->weight_bytes, std::filesystem::file_size(kModelPath));
  EXPECT_GE(plan->kv_bytes_per_sequence,
            plan->kv_bytes_per_token * static_cast<uint64_t>(plan->context_tokens));
  const auto half = quipu::Model::plan({.path = kModelPath, .kv_format = "int8"});
  ASSERT_TRUE(half.ok());
  EXPECT_LT(half->kv_bytes_per_token, plan->kv_bytes_per_token);
  const auto long_context = quipu::Model::plan({.path = kModelPath, .context_tokens = 1 << 20});
  EXPECT_EQ(code_of(long_context), quipu::ErrorCode::kInvalidArgument);
}

TEST_F(LibraryTest, KnowsItself) {
  EXPECT_EQ(quipu::library_version(), std::to_string(QUIPU_VERSION_MAJOR) + "." +
                                          std::to_string(QUIPU_VERSION_MINOR) + "." +
                                          std::to_string(QUIPU_VERSION_PATCH));
  const quipu::ModelInfo& info = model_->info();
  EXPECT_EQ(info.architecture, "llama");
  EXPECT_TRUE(info.has_tokenizer && info.has_chat_template && !info.is_encoder_decoder);
  const auto ids = model_->encode("Hello, goat.", {.add_special = false});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(model_->decode(*ids).value(), "Hello, goat.");
}

TEST_F(LibraryTest, FormatsConversations) {
  const std::vector<quipu::ChatMessage> messages = {{"user", "Hello, \"goat\""}};
  const auto text = model_->format_chat(messages);
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_NE(text->find("Hello, \"goat\""), std::string::npos);
  EXPECT_EQ(code_of(model_->format_chat(messages, "{}")), quipu::ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(model_->format_chat(messages, "[")), quipu::ErrorCode::kInvalidArgument);
}

TEST_F(LibraryTest, PiecesAddUpToTheResult) {
  auto generation = model_->start(request(24, 5));
  ASSERT_TRUE(generation.ok()) << generation.error().message;
  std::string text;
  std::vector<quipu::TokenId> tokens;
  while (const auto piece = generation->next()) {
    text += piece->text;
    tokens.insert(tokens.end(), piece->tokens.begin(), piece->tokens.end());
  }
  EXPECT_FALSE(generation->next().has_value());
  const auto result = generation->finish();
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->text, text);
  EXPECT_EQ(result->tokens, tokens);
  EXPECT_EQ(result->tokens.size(), 24u);
  EXPECT_EQ(result->completion_tokens, 24);
  EXPECT_EQ(result->finish, quipu::FinishReason::kLength);
  EXPECT_EQ(result->seed, 5u);
  EXPECT_GT(result->prompt_tokens, 1);
}

TEST_F(LibraryTest, ASeedGivesTheSameTextAloneAndAmongOthers) {
  const auto alone = model_->generate(request(32, 9));
  ASSERT_TRUE(alone.ok()) << alone.error().message;
  std::vector<std::string> texts(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      const auto result = model_->generate(request(32, i % 2 == 0 ? 9 : 10 + i));
      if (result.ok()) texts[i] = result->text;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < texts.size(); i += 2) EXPECT_EQ(texts[i], alone->text) << i;
  EXPECT_NE(texts[1], alone->text);
}

TEST_F(LibraryTest, StopsAtAStringAndWhenTheCallerSaysSo) {
  quipu::GenerationRequest greedy = request(48, 1);
  greedy.options.sampling.temperature = 0;
  const auto whole = model_->generate(greedy);
  ASSERT_TRUE(whole.ok());
  const std::string stop = whole->text.substr(whole->text.size() / 2, 5);
  greedy.options.stop = {stop};
  const auto stopped = model_->generate(greedy);
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->finish, quipu::FinishReason::kStop);
  EXPECT_EQ(stopped->stop_string, stop);
  EXPECT_EQ(stopped->text, whole->text.substr(0, whole->text.find(stop)));

  int pieces = 0;
  const auto cancelled =
      model_->generate(request(2000, 1), [&](std::string_view) { return ++pieces < 3; });
  ASSERT_TRUE(cancelled.ok());
  EXPECT_EQ(cancelled->finish, quipu::FinishReason::kCancelled);
  EXPECT_LT(cancelled->completion_tokens, 2000);
}

TEST_F(LibraryTest, LogProbabilitiesOfTheChosenTokenAndOfTheLikeliest) {
  quipu::GenerationRequest asked = request(12, 5);
  asked.options.top_logprobs = 3;
  auto generation = model_->start(asked);
  ASSERT_TRUE(generation.ok()) << generation.error().message;
  std::vector<quipu::TokenLogprobs> pieces;
  while (const auto piece = generation->next()) {
    EXPECT_EQ(piece->logprobs.size(), piece->tokens.size());
    pieces.insert(pieces.end(), piece->logprobs.begin(), piece->logprobs.end());
  }
  const auto result = generation->finish();
  ASSERT_TRUE(result.ok()) << result.error().message;
  ASSERT_EQ(result->logprobs.size(), 12u);
  ASSERT_EQ(pieces.size(), 12u);
  for (size_t i = 0; i < 12; ++i) {
    const quipu::TokenLogprobs& token = result->logprobs[i];
    EXPECT_EQ(token.chosen.token, result->tokens[i]);
    EXPECT_EQ(pieces[i].chosen.logprob, token.chosen.logprob);
    ASSERT_EQ(token.top.size(), 3u);
    double sum = 0;
    for (size_t j = 0; j < 3; ++j) {
      sum += std::exp(token.top[j].logprob);
      if (j > 0) EXPECT_LE(token.top[j].logprob, token.top[j - 1].logprob);
      if (token.top[j].token == token.chosen.token)
        EXPECT_EQ(token.top[j].logprob, token.chosen.logprob);
    }
    EXPECT_LE(sum, 1.000001);
    EXPECT_LE(token.chosen.logprob, token.top[0].logprob);
  }
  // The likeliest is what a temperature of 0 takes; asking changes no token.
  asked.options.sampling.temperature = 0;
  asked.options.top_logprobs = 1;
  const auto greedy = model_->generate(asked);
  ASSERT_TRUE(greedy.ok());
  for (size_t i = 0; i < greedy->tokens.size(); ++i)
    EXPECT_EQ(greedy->logprobs[i].top[0].token, greedy->tokens[i]);
  const auto plain = model_->generate(request(12, 5));
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->tokens, result->tokens);
  EXPECT_TRUE(plain->logprobs.empty());
  asked.options.top_logprobs = quipu::kTopLogprobsMax + 1;
  EXPECT_EQ(code_of(model_->start(asked)), quipu::ErrorCode::kInvalidArgument);
}

std::string bytes_of(const auto& number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

// A copy of the built-in model's file whose metadata has these numbers.
std::filesystem::path with_metadata(const std::vector<std::pair<std::string, float>>& numbers,
                                    const char* name) {
  std::ifstream in(kModelPath, std::ios::binary);
  std::string file(std::istreambuf_iterator<char>(in), {});
  uint64_t count = 0;
  std::memcpy(&count, file.data() + 16, 8);
  std::string more;
  const std::string f32 = bytes_of(uint32_t{6}), text = bytes_of(uint32_t{8});
  for (const auto& [key, value] : numbers) {
    const std::string entry = bytes_of(uint64_t{key.size()}) + key + f32;
    if (const size_t place = file.find(entry); place != std::string::npos) {
      file.replace(place + entry.size(), 4, bytes_of(value));
    } else {
      more += entry + bytes_of(value);
      ++count;
    }
  }
  // A text as long as it takes to leave what follows where alignment wants it.
  const std::string key = "test.padding";
  more += bytes_of(uint64_t{key.size()}) + key + text;
  const uint64_t padding = 64 - (more.size() + 8) % 64;
  file.insert(24, more + bytes_of(padding) + std::string(padding, ' '));
  file.replace(16, 8, bytes_of(count + 1));
  const std::filesystem::path path = std::filesystem::temp_directory_path() / name;
  std::ofstream(path, std::ios::binary) << file;
  return path;
}

TEST_F(LibraryTest, TheModelsFileSaysHowTokensAreChosenWhereNobodyElseDoes) {
  const quipu::SamplingParams usual = model_->info().sampling;
  EXPECT_EQ(usual.temperature, 0.8f);
  EXPECT_EQ(usual.top_k, 40);
  EXPECT_EQ(usual.top_p, 0.95f);
  EXPECT_EQ(usual.min_p, 0.05f);
  EXPECT_EQ(usual.repetition_penalty, 1.0f);

  const std::filesystem::path path =
      with_metadata({{"general.sampling.temp", 0}, {"general.sampling.penalty_repeat", 1.25f}},
                    "quipu-library-test-sampling.gguf");
  const auto greedy = quipu::Model::load({.path = path, .threads = 2, .kv_bytes = 8 << 20});
  std::filesystem::remove(path);
  ASSERT_TRUE(greedy.ok()) << greedy.error().message;
  EXPECT_EQ(greedy->info().sampling.temperature, 0.0f);
  EXPECT_EQ(greedy->info().sampling.repetition_penalty, 1.25f);
  EXPECT_EQ(greedy->info().sampling.top_k, 40);
  const auto text = [](const quipu::Model& model, quipu::GenerationRequest asked) {
    const auto result = model.generate(asked);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? result->text : "";
  };
  // As if a caller of the other model had said so, and whatever the seed is.
  quipu::GenerationRequest same = request(16, 1);
  same.options.sampling.temperature = 0;
  same.options.sampling.repetition_penalty = 1.25f;
  const std::string expected = text(*model_, same);
  EXPECT_EQ(text(*greedy, request(16, 1)), expected);
  EXPECT_EQ(text(*greedy, request(16, 2)), expected);
  // Who says otherwise is heard.
  quipu::GenerationRequest hot = request(16, 7);
  hot.options.sampling.temperature = 1.5f;
  hot.options.sampling.repetition_penalty = 1;
  EXPECT_EQ(text(*greedy, hot), text(*model_, hot));
  EXPECT_NE(text(*greedy, hot), expected);

  const std::filesystem::path wrong =
      with_metadata({{"general.sampling.top_p", 7}}, "quipu-library-test-wrong.gguf");
  const auto refused = quipu::Model::load({.path = wrong});
  std::filesystem::remove(wrong);
  EXPECT_EQ(code_of(refused), quipu::ErrorCode::kCorruptData);
  EXPECT_NE(refused.error().message.find("top_p is 7"), std::string::npos)
      << refused.error().message;
}

TEST_F(LibraryTest, WhatTheEngineRefusesComesFromFinish) {
  quipu::GenerationRequest bad = request(1, 1);
  bad.prompt_tokens = {1 << 30};
  EXPECT_EQ(code_of(model_->generate(bad)), quipu::ErrorCode::kInvalidArgument);
  bad = request(1, 1);
  bad.options.sampling.top_p = 7;
  EXPECT_EQ(code_of(model_->generate(bad)), quipu::ErrorCode::kInvalidArgument);
}

TEST_F(LibraryTest, SessionsGoOnFromWhatIsCached) {
  auto session = model_->make_session("sessions");
  ASSERT_TRUE(session.ok()) << session.error().message;
  EXPECT_EQ(code_of(session->generate()), quipu::ErrorCode::kInvalidArgument);
  ASSERT_TRUE(session->append(kBeginning).ok());
  const quipu::GenerationOptions options = request(40, 3).options;
  const auto first = session->generate(options);
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(first->cached_tokens, 0);
  const size_t length = session->tokens().size();
  EXPECT_EQ(length, static_cast<size_t>(first->prompt_tokens + first->completion_tokens));

  quipu::Session fork = session->fork();
  ASSERT_TRUE(session->append(" The end.").ok());
  const auto second = session->generate(options);
  ASSERT_TRUE(second.ok());
  EXPECT_GE(second->cached_tokens, static_cast<int64_t>(length) - 1);
  // The fork starts from the same cache and knows nothing of what its origin did since.
  EXPECT_EQ(fork.tokens().size(), length);
  const auto other = fork.generate(options);
  ASSERT_TRUE(other.ok());
  EXPECT_GE(other->cached_tokens, static_cast<int64_t>(length) - 1);
  // Going back and on again gives the same text as before, from the cache or not.
  fork.truncate(static_cast<int64_t>(length));
  const auto again = fork.generate(options);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->tokens, other->tokens);
  // Another salt shares nothing.
  auto stranger = model_->make_session("other").value();
  stranger.append_tokens(fork.tokens());
  EXPECT_EQ(stranger.generate(request(1, 3).options)->cached_tokens, 0);
}

TEST_F(LibraryTest, TellsWhatTheCacheHolds) {
  ASSERT_TRUE(model_->generate(request(40, 2)).ok());
  const auto before = model_->cache_statistics();
  ASSERT_TRUE(before.ok()) << before.error().message;
  EXPECT_EQ(before->block_tokens, 32);
  EXPECT_EQ(before->running, 0);
  EXPECT_GT(before->blocks_cached, 0);
  EXPECT_EQ(before->blocks_open, 0);
  EXPECT_GT(before->bytes, 0u);
  ASSERT_TRUE(model_->generate(request(4, 2)).ok());
  const auto after = model_->cache_statistics();
  EXPECT_EQ(after->lookups, before->lookups + 1);
  EXPECT_GT(after->tokens_reused, before->tokens_reused);
}

TEST_F(LibraryTest, RefusesMoreThanItsQueueAndOutlivesItsHandle) {
  std::optional<quipu::Model> small = quipu::Model::load({.path = kModelPath,
                                                          .threads = 1,
                                                          .kv_bytes = 8 << 20,
                                                          .running_max = 1,
                                                          .waiting_max = 1})
                                          .value();
  auto running = small->start(request(400, 1));
  auto waiting = small->start(request(4, 1));
  ASSERT_TRUE(running.ok() && waiting.ok());
  EXPECT_EQ(code_of(small->start(request(4, 1))), quipu::ErrorCode::kResourceExhausted);
  small.reset();  // the generations keep it alive
  running->cancel();
  EXPECT_EQ(running->finish()->finish, quipu::FinishReason::kCancelled);
  EXPECT_EQ(waiting->finish()->completion_tokens, 4);
}

}  // namespace
