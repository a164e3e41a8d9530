// The determinism contract on real models, through the engine: however a request runs (in chunks,
// in a batch with others, behind a warm cache, preempted and resumed, without a cache, on more
// threads), its tokens and the logits they were chosen from are the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "engine_run.h"
#include "golden_case.h"

namespace quipu::golden {
namespace {

constexpr int kBlockTokens = 16;
constexpr int64_t kGolden = 1;   // request ids
constexpr int kCompanions = 15;  // with ids from 2

struct EngineSettings {
  int blocks = 256;
  int prefill_chunk_max = kContextTokensMax;
  bool keep_kv = true;
  KvFormats kv_format = KvFormat::kF32;
};

class DecoderRun : public EngineRun {
 public:
  DecoderRun(LoadedCase& loaded, const EngineSettings& settings)
      : EngineRun(*loaded.model, *loaded.backend, config_of(loaded, settings)) {}

  void submit(int64_t id, std::vector<TokenId> prompt, int64_t max_tokens) {
    Request request;
    request.id = RequestId(id);
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.logits_wanted = LogitsWanted::kSampled;
    EngineRun::submit(std::move(request));
  }
  const Outcome& golden() const { return outcome(kGolden); }

 private:
  static EngineConfig config_of(const LoadedCase& loaded, const EngineSettings& settings) {
    const KvCacheSpec spec =
        kv_cache_spec_for(loaded.model->config(), settings.kv_format, kBlockTokens);
    return {.kv_format = settings.kv_format,
            .block_tokens = kBlockTokens,
            .kv_bytes = spec.block_bytes() * static_cast<uint64_t>(settings.blocks),
            .prefill_chunk_max = settings.prefill_chunk_max,
            .keep_kv = settings.keep_kv};
  }
};

Outcome run_alone(LoadedCase& loaded, const GoldenCase& golden, const EngineSettings& settings) {
  DecoderRun run(loaded, settings);
  run.submit(kGolden, golden.tokens, static_cast<int64_t>(golden.greedy.size()));
  run.finish();
  return run.golden();
}

// The golden request among others of many lengths that come before it, with it and behind it.
std::map<int64_t, Outcome> run_in_company(LoadedCase& loaded, const GoldenCase& golden,
                                          const EngineSettings& settings) {
  DecoderRun run(loaded, settings);
  for (int i = 0; i < kCompanions; ++i) {
    if (i == kCompanions / 2) {
      run.submit(kGolden, golden.tokens, static_cast<int64_t>(golden.greedy.size()));
    }
    std::vector<TokenId> prompt;
    const int length = 1 + (i * 11) % 40;
    for (int t = 0; t < length; ++t) prompt.push_back((t * 31 + i * 17 + 5) % golden.vocab_size);
    run.submit(2 + i, prompt, 5 + i);
    if (i % 3 == 0) run.step();
  }
  run.finish();
  return run.outcomes();
}

LoadedCase load_or_abort(const GoldenCase& golden, const RunOptions& options) {
  Result<LoadedCase> loaded = load_case(golden, options);
  QUIPU_CHECK(loaded.ok(), "{}", loaded.status().message());
  return std::move(loaded).value();
}

struct Setting {
  std::string case_name;
  Isa isa;
};

enum class Which { kEvery, kPlain };

// Plain: cases without block types, whose greedy tokens the reference's must equal.
std::vector<Setting> settings(Which which) {
  std::vector<Setting> list;
  for (const GoldenCase& golden : all_cases()) {
    if (which == Which::kPlain && golden.is_gguf) continue;
    for (const Isa isa : detect_cpu_features().usable) list.push_back({golden.name, isa});
  }
  return list;
}

std::string setting_name(const testing::TestParamInfo<Setting>& info) {
  std::string name = info.param.case_name + "_" + std::string(isa_name(info.param.isa));
  std::ranges::replace(name, '-', '_');
  return name;
}

class EngineGolden : public testing::TestWithParam<Setting> {
 protected:
  const GoldenCase& golden() const { return find_case(GetParam().case_name); }
};

class EngineReference : public EngineGolden {};

TEST_P(EngineReference, GivesItsContinuation) {
  LoadedCase loaded = load_or_abort(golden(), {.isa = GetParam().isa, .weights = DType::kF32});
  EXPECT_EQ(run_alone(loaded, golden(), {}).tokens, golden().greedy);
  EXPECT_EQ(run_alone(loaded, golden(), {.keep_kv = false}).tokens, golden().greedy);
}

TEST_P(EngineGolden, ChunksThreadsAndNoCacheChangeNoBit) {
  LoadedCase loaded = load_or_abort(golden(), {.isa = GetParam().isa});
  LoadedCase threaded = load_or_abort(golden(), {.isa = GetParam().isa, .threads = 2});
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    const Outcome alone = run_alone(loaded, golden(), {.kv_format = format});
    ASSERT_EQ(alone.logits.size(), golden().greedy.size());
    for (const auto& [position, logits] : alone.logits)
      ASSERT_EQ(logits.size(), static_cast<size_t>(golden().vocab_size)) << position;
    for (const int chunk : {1, 7, 64}) {
      EXPECT_TRUE(same_outcome(
          run_alone(loaded, golden(), {.prefill_chunk_max = chunk, .kv_format = format}), alone))
          << "chunk " << chunk;
    }
    EXPECT_TRUE(same_outcome(run_alone(threaded, golden(), {.kv_format = format}), alone))
        << "two threads";
    EXPECT_TRUE(
        same_outcome(run_alone(loaded, golden(), {.keep_kv = false, .kv_format = format}), alone))
        << "without a cache";
  }
}

TEST_P(EngineGolden, CompanyChangesNoBit) {
  LoadedCase loaded = load_or_abort(golden(), {.isa = GetParam().isa});
  const Outcome alone = run_alone(loaded, golden(), {});
  const std::map<int64_t, Outcome> company = run_in_company(loaded, golden(), {});
  EXPECT_TRUE(same_outcome(company.at(kGolden), alone)) << "in a batch of 16";
  const auto chunked = run_in_company(loaded, golden(), {.prefill_chunk_max = 9});
  for (const auto& [id, outcome] : company) {
    EXPECT_TRUE(same_outcome(chunked.at(id), outcome)) << "request " << id << " in chunks of 9";
  }
}

TEST_P(EngineGolden, PreemptionChangesNoBit) {
  LoadedCase loaded = load_or_abort(golden(), {.isa = GetParam().isa});
  const auto roomy = run_in_company(loaded, golden(), {});
  // Room for the golden request and little more: the 16 need about three times as much.
  const int total = static_cast<int>(golden().tokens.size() + golden().greedy.size());
  EngineSettings little = {.blocks = total / kBlockTokens + 12};
  // Where every layer has a window, sequences let go of what is behind it and need less.
  const KvCacheSpec spec = kv_cache_spec_for(loaded.model->config(), KvFormat::kF32, kBlockTokens);
  if (spec.groups.front().lifetime.is_windowed())
    little = {.blocks = 8, .prefill_chunk_max = kBlockTokens};
  const auto tight = run_in_company(loaded, golden(), little);
  int preemptions = 0;
  for (const auto& [id, outcome] : roomy) {
    EXPECT_TRUE(same_outcome(tight.at(id), outcome)) << "request " << id;
    preemptions += tight.at(id).stats.preemptions;
  }
  EXPECT_GT(preemptions, 0) << "the pool was not tight";
}

TEST_P(EngineGolden, AWarmCacheChangesNoBit) {
  LoadedCase loaded = load_or_abort(golden(), {.isa = GetParam().isa});
  const int64_t steps = static_cast<int64_t>(golden().greedy.size());
  // A prompt that leaves the golden one in the middle of a block, then the golden one twice.
  std::vector<TokenId> fork(golden().tokens.begin(), golden().tokens.begin() + 21);
  fork.push_back((golden().tokens[21] + 1) % golden().vocab_size);
  DecoderRun run(loaded, {});
  run.submit(3, fork, 2);
  run.finish();
  run.submit(kGolden, golden().tokens, steps);
  run.finish();
  run.submit(2, golden().tokens, steps);
  run.finish();
  const Outcome cold = run_alone(loaded, golden(), {});
  EXPECT_EQ(run.golden().stats.cached_tokens, 21);
  EXPECT_EQ(run.outcomes().at(2).stats.cached_tokens,
            static_cast<int64_t>(golden().tokens.size()) - 1);
  EXPECT_TRUE(same_outcome(run.golden(), cold)) << "behind a shared beginning";
  EXPECT_TRUE(same_outcome(run.outcomes().at(2), cold)) << "the same prompt again";
}

INSTANTIATE_TEST_SUITE_P(Models, EngineReference, testing::ValuesIn(settings(Which::kPlain)),
                         setting_name);
INSTANTIATE_TEST_SUITE_P(Models, EngineGolden, testing::ValuesIn(settings(Which::kEvery)),
                         setting_name);

}  // namespace
}  // namespace quipu::golden
