// Encoder-decoder models against the reference implementation, and the determinism contract on
// them, through the engine (tests/golden/encoder_decoder).
//
// Tolerance, on F32: max |difference| <= 1e-4 max |reference| over the golden positions together.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "engine_run.h"
#include "golden_case.h"

namespace quipu::golden {
namespace {

constexpr int kBlockTokens = 16;

struct Case {
  std::string name;
  std::filesystem::path model;
  std::vector<TokenId> input;   // of the encoder
  std::vector<TokenId> tokens;  // of the decoder, the start token first
  std::vector<int32_t> positions;
  std::vector<TokenId> greedy;  // behind the start token
  std::vector<float> logits;    // SHAPE: [positions, vocab_size]
};

std::vector<Case> read_cases() {
  std::vector<Case> cases;
  const std::filesystem::path root =
      std::filesystem::path(QUIPU_SOURCE_DIR) / "tests" / "golden" / "encoder_decoder";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (!std::filesystem::exists(entry.path() / "golden.json")) continue;
    std::ifstream stream(entry.path() / "golden.json");
    const nlohmann::json json = nlohmann::json::parse(stream);
    Case golden;
    golden.name = json.at("case");
    golden.model = (entry.path() / json.at("model").get<std::string>()).lexically_normal();
    json.at("input").get_to(golden.input);
    json.at("tokens").get_to(golden.tokens);
    json.at("logit_positions").get_to(golden.positions);
    json.at("greedy").get_to(golden.greedy);
    golden.logits = read_floats(entry.path() / "logits.f32");
    QUIPU_CHECK(
        golden.logits.size() == golden.positions.size() * json.at("vocab_size").get<size_t>(),
        "{}: {} logits", golden.name, golden.logits.size());
    cases.push_back(std::move(golden));
  }
  std::ranges::sort(cases, {}, &Case::name);
  return cases;
}

const std::vector<Case>& all() {
  static const auto* cases = new std::vector<Case>(read_cases());
  return *cases;
}

LoadedCase load(const Case& golden, Isa isa, int threads = 1, int batch_tokens_max = 256) {
  LoadedCase loaded;
  auto backend = make_cpu_backend({.threads = threads, .isa = isa, .pin_threads = false});
  QUIPU_CHECK(backend.ok(), "{}", backend.status().message());
  loaded.backend = std::move(backend).value();
  // A Hugging Face directory's BF16 weights are multiplied as F32, as the reference does it.
  const bool directory = std::filesystem::is_directory(golden.model);
  auto file = open_model_file(
      golden.model, directory ? ModelFileOptions{.weights = DType::kF32} : ModelFileOptions{});
  QUIPU_CHECK(file.ok(), "{}", file.status().message());
  loaded.file = std::move(file).value();
  auto model = load_model(*loaded.file, *loaded.backend, {.batch_tokens_max = batch_tokens_max});
  QUIPU_CHECK(model.ok(), "{}", model.status().message());
  loaded.model = std::move(model).value();
  return loaded;
}

struct Settings {
  KvFormat kv_format = KvFormat::kF32;
  int blocks = 128;
  int input_blocks = 128;
  int prefill_chunk_max = 256;
  bool keep_kv = true;
};

class ModelRun : public EngineRun {
 public:
  ModelRun(LoadedCase& loaded, const Settings& settings)
      : EngineRun(*loaded.model, *loaded.backend, config_of(loaded, settings)) {}

  void submit(int64_t id, std::vector<TokenId> input, std::vector<TokenId> prompt,
              int64_t max_tokens, LogitsWanted wanted = LogitsWanted::kSampled,
              const std::string& salt = "") {
    Request request;
    request.id = RequestId(id);
    request.input = std::move(input);
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.cache_salt = salt;
    request.logits_wanted = wanted;
    EngineRun::submit(std::move(request));
  }

 private:
  static EngineConfig config_of(const LoadedCase& loaded, const Settings& settings) {
    const ModelConfig& config = loaded.model->config();
    const auto bytes = [&](const KvCacheSpec& spec, int blocks) {
      return spec.block_bytes() * static_cast<uint64_t>(blocks);
    };
    return {.kv_format = settings.kv_format,
            .block_tokens = kBlockTokens,
            .kv_bytes =
                bytes(kv_cache_spec_for(config, settings.kv_format, kBlockTokens), settings.blocks),
            .input_kv_bytes = bytes(input_kv_spec_for(config, settings.kv_format, kBlockTokens),
                                    settings.input_blocks),
            .prefill_chunk_max = settings.prefill_chunk_max,
            .keep_kv = settings.keep_kv};
  }
};

struct Setting {
  const Case* golden;
  Isa isa;
};

std::vector<Setting> settings() {
  std::vector<Setting> list;
  for (const Case& golden : all()) {
    for (const Isa isa : detect_cpu_features().usable) list.push_back({&golden, isa});
  }
  return list;
}

std::string setting_name(const testing::TestParamInfo<Setting>& info) {
  std::string name = info.param.golden->name + "_" + std::string(isa_name(info.param.isa));
  std::ranges::replace(name, '-', '_');
  return name;
}

class EncoderDecoder : public testing::TestWithParam<Setting> {
 protected:
  const Case& golden() const { return *GetParam().golden; }
  std::vector<TokenId> start() const { return {golden().tokens.front()}; }
  auto greedy_count() const { return static_cast<int64_t>(golden().greedy.size()); }

  Outcome alone(LoadedCase& loaded, const Settings& run_settings, int64_t tokens) const {
    ModelRun run(loaded, run_settings);
    run.submit(1, golden().input, start(), tokens);
    run.finish();
    return run.outcome(1);
  }
};

TEST_P(EncoderDecoder, LogitsAndGreedyTokensEqualTheReference) {
  LoadedCase loaded = load(golden(), GetParam().isa);
  ModelRun run(loaded, {});
  run.submit(1, golden().input, golden().tokens, 0, LogitsWanted::kAll);
  run.submit(2, golden().input, start(), greedy_count());
  run.finish();
  std::vector<float> logits;
  for (const int32_t position : golden().positions) {
    const std::vector<float>& row = run.outcome(1).logits.at(position);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  EXPECT_LE(relative_max_error(logits, golden().logits), 1e-4);
  EXPECT_EQ(run.outcome(2).tokens, golden().greedy);
}

TEST_P(EncoderDecoder, Bf16KeysAndValuesStayNear) {
  LoadedCase loaded = load(golden(), GetParam().isa);
  ModelRun run(loaded, {.kv_format = KvFormat::kBF16});
  run.submit(1, golden().input, golden().tokens, 0, LogitsWanted::kAll);
  run.finish();
  std::vector<float> logits;
  for (const int32_t position : golden().positions) {
    const std::vector<float>& row = run.outcome(1).logits.at(position);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  EXPECT_LE(normalised_squared_error(logits, golden().logits), 1e-4);
}

TEST_P(EncoderDecoder, PiecesThreadsAndNoCacheChangeNoBit) {
  LoadedCase loaded = load(golden(), GetParam().isa);
  LoadedCase pieces = load(golden(), GetParam().isa, 2, 24);  // the encoder in pieces of 24 tokens
  for (const KvFormat format : kKvFormats) {
    const Outcome expected = alone(loaded, {.kv_format = format}, greedy_count());
    EXPECT_TRUE(same_outcome(alone(pieces, {.kv_format = format}, greedy_count()), expected))
        << kv_format_name(format) << ", pieces, two threads";
    EXPECT_TRUE(same_outcome(alone(loaded, {.kv_format = format, .keep_kv = false}, greedy_count()),
                             expected))
        << kv_format_name(format) << ", without a cache";
  }
  ModelRun whole(loaded, {}), cut(loaded, {.prefill_chunk_max = 7});
  for (ModelRun* run : {&whole, &cut}) {
    run->submit(1, golden().input, golden().tokens, 3, LogitsWanted::kAll);
    run->finish();
  }
  EXPECT_TRUE(same_outcome(cut.outcome(1), whole.outcome(1))) << "decoder prompt in chunks of 7";
}

INSTANTIATE_TEST_SUITE_P(Golden, EncoderDecoder, testing::ValuesIn(settings()), setting_name);

// The rest of the contract, on one model of each architecture and the fastest instruction set.
class EncodedInputs : public EncoderDecoder {
 protected:
  std::vector<TokenId> other_input(int i) const {
    std::vector<TokenId> input;
    for (int t = 0; t < 1 + (i * 11) % 60; ++t) input.push_back(2 + (t * 31 + i * 17) % 60);
    return input;
  }
};

// Sixteen requests: the golden one among others, some with its input, some with the same decoder
// prompt behind another input.
TEST_P(EncodedInputs, CompanyAndPreemptionChangeNoBit) {
  LoadedCase loaded = load(golden(), GetParam().isa);
  constexpr int64_t kTokens = 24;  // the second block of a sequence comes on the way
  const Outcome expected = alone(loaded, {}, kTokens);
  std::map<int, Outcome> roomy;
  // Roomy; the decoder's pool tight; the pool of inputs tight, so that encodings come and go.
  const int inputs = static_cast<int>(golden().input.size()) / kBlockTokens + 1;
  for (const Settings& settings :
       {Settings{}, Settings{.blocks = 5}, Settings{.blocks = 5, .input_blocks = inputs + 4},
        Settings{.blocks = 5, .keep_kv = false}}) {
    ModelRun run(loaded, settings);
    int preemptions = 0;
    for (int i = 0; i < 16; ++i) {
      run.submit(i, i % 5 == 1 ? golden().input : other_input(i), start(), kTokens);
      if (i % 3 == 0) run.step();
    }
    run.finish();
    for (int i = 0; i < 16; ++i) {
      const Outcome& outcome = run.outcome(i);
      preemptions += outcome.stats.preemptions;
      if (i % 5 == 1) {
        EXPECT_TRUE(same_outcome(outcome, expected)) << "request " << i;
      }
      if (!roomy.contains(i)) roomy[i] = outcome;
      EXPECT_TRUE(same_outcome(outcome, roomy[i])) << "request " << i;
    }
    if (settings.blocks == 5 && settings.input_blocks == 128) {
      EXPECT_GT(preemptions, 0) << "the pool was not tight";
    }
    EncodingCache& cache = *run.engine().scheduler().inputs();
    if (settings.input_blocks < 128) {
      EXPECT_GT(cache.counters().inputs_evicted, 0);
    }
    cache.clear();
    EXPECT_EQ(cache.free_blocks(), cache.total_blocks());
  }
}

TEST_P(EncodedInputs, EqualInputsAreEncodedOnce) {
  LoadedCase loaded = load(golden(), GetParam().isa);
  ModelRun run(loaded, {});
  const auto tokens = static_cast<int64_t>(golden().input.size());
  run.submit(1, golden().input, start(), greedy_count());
  run.submit(2, golden().input, start(), greedy_count());
  run.step();
  const EncodingCache& cache = *run.engine().scheduler().inputs();
  EXPECT_EQ(cache.num_encodings(), 1);
  const int blocks = cache.total_blocks() - cache.free_blocks();
  run.finish();
  EXPECT_EQ(cache.total_blocks() - cache.free_blocks(), blocks) << "cross-attention grew";
  run.submit(3, golden().input, start(), greedy_count());
  run.submit(4, golden().input, start(), greedy_count(), LogitsWanted::kSampled, "tenant");
  run.finish();
  EXPECT_EQ(run.outcome(1).stats.cached_input_tokens, 0);
  EXPECT_EQ(run.outcome(2).stats.cached_input_tokens, tokens);
  EXPECT_EQ(run.outcome(3).stats.cached_input_tokens, tokens);
  EXPECT_EQ(run.outcome(4).stats.cached_input_tokens, 0) << "tenants share nothing";
  EXPECT_EQ(run.outcome(1).stats.input_tokens, tokens);
  for (const int64_t id : {2, 3, 4})
    EXPECT_TRUE(same_outcome(run.outcome(id), run.outcome(1))) << id;
}

// A decoder prefix is worth nothing behind another input, whatever its tokens.
TEST_P(EncodedInputs, DecoderPrefixesOfOtherInputsAreNotShared) {
  LoadedCase loaded = load(golden(), GetParam().isa);
  ModelRun run(loaded, {});
  std::vector<TokenId> changed = golden().input;
  changed.back() = changed.back() == 5 ? 6 : 5;
  run.submit(1, golden().input, golden().tokens, 4);
  run.finish();
  run.submit(2, changed, golden().tokens, 4);
  run.submit(3, golden().input, golden().tokens, 4);
  run.finish();
  EXPECT_EQ(run.outcome(2).stats.cached_tokens, 0);
  EXPECT_EQ(run.outcome(3).stats.cached_tokens, static_cast<int64_t>(golden().tokens.size()) - 1);
  EXPECT_TRUE(same_outcome(run.outcome(3), run.outcome(1)));
  EXPECT_FALSE(same_outcome(run.outcome(2), run.outcome(1))) << "the input does not matter";
  ModelRun fresh(loaded, {});
  fresh.submit(2, changed, golden().tokens, 4);
  fresh.finish();
  EXPECT_TRUE(same_outcome(run.outcome(2), fresh.outcome(2)));
}

TEST_P(EncodedInputs, WrongRequestsAreRefusedWithTheNumbers) {
  LoadedCase loaded = load(golden(), GetParam().isa);
  ModelRun run(loaded, {.input_blocks = 2});
  const auto message = [&](std::vector<TokenId> input) {
    Request request;
    request.input = std::move(input);
    request.prompt = start();
    return run.engine().submit(std::move(request)).message();
  };
  EXPECT_NE(message({}).find("no tokens"), std::string::npos);
  EXPECT_NE(message({2, 1 << 20}).find("vocabulary"), std::string::npos);
  EXPECT_NE(message(std::vector<TokenId>(33, 2)).find("33"), std::string::npos);
  EXPECT_NE(message(std::vector<TokenId>(33, 2)).find("--kv-memory"), std::string::npos);
  EXPECT_NE(message(std::vector<TokenId>(5000, 2)).find("--ctx-size"), std::string::npos);
  EXPECT_FALSE(run.engine().has_work());
}

std::vector<Setting> chosen_settings() {
  std::vector<Setting> list;
  for (const Setting& setting : settings()) {
    const std::string& name = setting.golden->name;
    const bool chosen =
        name == "t5-gated" || name == "t5-relu-tied" || name == "transformer-norm-after";
    if (chosen && setting.isa == detect_cpu_features().usable.back()) list.push_back(setting);
  }
  return list;
}

INSTANTIATE_TEST_SUITE_P(Golden, EncodedInputs, testing::ValuesIn(chosen_settings()), setting_name);

TEST(EncoderDecoderCases, AreThere) {
  EXPECT_GE(all().size(), 8u);
  EXPECT_EQ(chosen_settings().size(), 3u);
}

// A decoder alone takes no input for an encoder.
TEST(EncoderDecoderCases, ADecoderRefusesAnInput) {
  Result<LoadedCase> loaded = load_case(find_case("gpt2"), {});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  FakeClock clock;
  const uint64_t bytes =
      kv_cache_spec_for(loaded->model->config(), KvFormat::kF32, kBlockTokens).block_bytes() * 8;
  auto engine = Engine::create(
      *loaded->model, *loaded->backend,
      {.kv_format = KvFormat::kF32, .block_tokens = kBlockTokens, .kv_bytes = bytes}, clock);
  ASSERT_TRUE(engine.ok());
  Request request;
  request.prompt = {1};
  request.input = {1, 2};
  EXPECT_EQ((*engine)->submit(std::move(request)).code(), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace quipu::golden
