// The determinism contract, bit for bit: for one instruction set, weight type and KV format the
// same request gives the same logits and tokens, however it is cut, shared out, crowded, cached,
// preempted or blocked.
#include <gtest/gtest.h>

#include <algorithm>

#include "tiny_engine.h"

namespace quipu::exactness {
namespace {

constexpr size_t kPromptTokens = 75;  // crosses blocks of 16, 32 and 64 and a chunk of 64
constexpr int64_t kOutputTokens = 8;
constexpr uint64_t kTarget = 1;  // seed of the prompt that is compared

struct Setting {
  std::string shape;
  DType weights;
  Isa isa;
};

bool has_windows(const std::string& shape) {
  return shape == "tiny-windows" || shape == "tiny-mixed";
}

std::vector<Setting> all_settings() {
  std::vector<Setting> settings;
  for (const std::string& shape : tiny_shapes()) {
    for (const Isa isa : detect_cpu_features().usable) {
      for (const DType weights :
           {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
        // What windows change does not depend on the weights.
        if (has_windows(shape) && weights != DType::kQ8_0) continue;
        // Nor what an encoder and cross-attention do.
        if (shape == "tiny-t5" && weights != DType::kQ8_0 && weights != DType::kBF16) continue;
        // Nor does what these do differently: one plain type, one of 32 and one of 256.
        const bool few = shape == "tiny-gemma2" || shape == "tiny-gemma3" || shape == "tiny-phi3";
        if (few && weights != DType::kBF16 && weights != DType::kQ8_0 && weights != DType::kQ4_K)
          continue;
        // Scalar kernels sum by weight type, whatever the architecture, and take half of all time.
        if (isa == Isa::kScalar && shape != "tiny-llama" && weights != DType::kBF16 &&
            weights != DType::kQ8_0 && !wants_long_form())
          continue;
        settings.push_back({shape, weights, isa});
      }
    }
  }
  return settings;
}

std::string setting_name(const testing::TestParamInfo<Setting>& info) {
  std::string name = fmt::format("{}_{}_{}", info.param.shape.substr(5),
                                 dtype_name(info.param.weights), isa_name(info.param.isa));
  std::ranges::replace(name, '-', '_');
  return name;
}

Request target_request(LogitsWanted wanted = LogitsWanted::kSampled) {
  return make_request(random_tokens(kTarget, kPromptTokens), kOutputTokens, wanted);
}

// Another format in each layer of the tiny models, which have two.
KvFormats mixed_formats() { return KvFormats::parse("int4,first=int8").value(); }

class Exactness : public testing::TestWithParam<Setting> {
 protected:
  std::unique_ptr<TinyModel> open(int threads = 1) const {
    return open_tiny_model(GetParam().shape, GetParam().weights, GetParam().isa, threads);
  }

  // Every shape and instruction set meets every format, some with one weight type and some with
  // another. The scalar kernels, whose only job is to be plain, take one each to save time.
  std::vector<KvFormats> kv_formats() const {
    const auto [one, other] = [&]() -> std::pair<KvFormats, KvFormats> {
      switch (GetParam().weights) {
        case DType::kF32: return {KvFormat::kF32, KvFormat::kInt4};
        case DType::kBF16: return {KvFormat::kBF16, KvFormat::kInt8};
        case DType::kQ8_0: return {KvFormat::kInt8, mixed_formats()};
        case DType::kQ4_0: return {KvFormat::kInt4, KvFormat::kF32};
        case DType::kQ4_K: return {mixed_formats(), KvFormat::kBF16};
        default: return {KvFormat::kInt8, KvFormat::kInt4};
      }
    }();
    if (GetParam().isa == Isa::kScalar) return {one};
    return {one, other};
  }
};

TEST_P(Exactness, ChunkSizesDoNotMatter) {
  const auto model = open();
  for (const KvFormats& format : kv_formats()) {
    const Outcome whole = run_alone(*model, {.kv_format = format}, target_request());
    for (const int chunk : {1, 7, 64}) {
      // kAll shows every position's logits; the whole prompt's must agree where it shows them.
      const Outcome cut = run_alone(*model, {.kv_format = format, .chunk = chunk},
                                    target_request(LogitsWanted::kAll));
      EXPECT_EQ(difference(cut, whole, kOutputTokens), "")
          << format.to_string() << ", chunk " << chunk;
    }
  }
}

TEST_P(Exactness, EveryPositionAgreesBetweenChunkSizes) {
  const auto model = open();
  const KvFormats format = kv_formats().back();
  const Outcome one =
      run_alone(*model, {.kv_format = format, .chunk = 1}, target_request(LogitsWanted::kAll));
  const Outcome many =
      run_alone(*model, {.kv_format = format, .chunk = 64}, target_request(LogitsWanted::kAll));
  EXPECT_EQ(difference(many, one, kPromptTokens + kOutputTokens - 1), "");
}

TEST_P(Exactness, ThreadsDoNotMatter) {
  const auto model = open();
  for (const auto& [threads, chunk] : {std::pair(2, 7), std::pair(3, 512)}) {
    const auto other = open(threads);
    for (const KvFormats& format : kv_formats()) {
      const Outcome expected = run_alone(*model, {.kv_format = format}, target_request());
      const Outcome actual =
          run_alone(*other, {.kv_format = format, .chunk = chunk}, target_request());
      EXPECT_EQ(difference(actual, expected, kOutputTokens), "")
          << format.to_string() << ", " << threads << " threads, chunk " << chunk;
    }
  }
}

// Sixteen requests of mixed lengths, some arriving late; three of them are compared with themselves
// alone, one of which draws with penalties.
TEST_P(Exactness, CompanyDoesNotMatter) {
  const auto model = open(2);
  const auto request = [](uint64_t seed) {
    Request made =
        make_request(random_tokens(seed, 5 + seed * 13 % 90), 3 + static_cast<int64_t>(seed % 9));
    made.sampling.seed = seed;
    if (seed % 4 == 1) made.sampling.repetition_penalty = 1.2f;
    if (seed % 5 == 0) made.sampling.temperature = 0;
    return made;
  };
  for (const KvFormats& format : kv_formats()) {
    const EngineSettings settings = {.kv_format = format, .chunk = 40};
    std::vector<Request> requests;
    for (uint64_t seed = 1; seed <= 16; ++seed) requests.push_back(request(seed));
    TinyEngine crowded(*model, settings);
    const std::vector<Outcome> together = run(*crowded.engine, std::move(requests), 1);
    for (const uint64_t seed : {1, 5, 12}) {
      const Outcome alone = run_alone(*model, {.kv_format = format}, request(seed));
      EXPECT_EQ(difference(together[seed - 1], alone, 3), "")
          << format.to_string() << ", request " << seed;
    }
  }
}

TEST_P(Exactness, AWarmCacheDoesNotMatter) {
  const auto model = open();
  for (const KvFormats& format : kv_formats()) {
    const EngineSettings settings = {.kv_format = format};
    const Outcome cold = run_alone(*model, settings, target_request());
    TinyEngine warm(*model, settings);
    const auto run_one = [&](Request request) {
      std::vector<Request> requests;
      requests.push_back(std::move(request));
      return std::move(run(*warm.engine, std::move(requests)).front());
    };
    run_one(target_request());
    const Outcome again = run_one(target_request());
    EXPECT_EQ(again.stats.cached_tokens, static_cast<int64_t>(kPromptTokens) - 1);
    EXPECT_EQ(difference(again, cold, kOutputTokens), "")
        << format.to_string() << ", the same prompt";

    // The same beginning up to the middle of a block, then other tokens.
    std::vector<TokenId> branch = random_tokens(kTarget, kPromptTokens);
    const std::vector<TokenId> tail = random_tokens(99, kPromptTokens - 37);
    std::ranges::copy(tail, branch.begin() + 37);
    branch[37] = (random_tokens(kTarget, kPromptTokens)[37] + 1) % 300;
    const Outcome branched = run_one(make_request(branch, kOutputTokens));
    EXPECT_EQ(branched.stats.cached_tokens, 37);
    const Outcome branched_cold = run_alone(*model, settings, make_request(branch, kOutputTokens));
    EXPECT_EQ(difference(branched, branched_cold, kOutputTokens), "")
        << format.to_string() << ", a branch";

    // The next turn of a conversation: prompt, output, and more.
    std::vector<TokenId> turn = random_tokens(kTarget, kPromptTokens);
    turn.insert(turn.end(), cold.tokens.begin(), cold.tokens.end());
    const std::vector<TokenId> question = random_tokens(5, 20);
    turn.insert(turn.end(), question.begin(), question.end());
    const Outcome next = run_one(make_request(turn, kOutputTokens));
    EXPECT_GE(next.stats.cached_tokens, static_cast<int64_t>(kPromptTokens) + kOutputTokens - 1);
    const Outcome next_cold = run_alone(*model, settings, make_request(turn, kOutputTokens));
    EXPECT_EQ(difference(next, next_cold, kOutputTokens), "")
        << format.to_string() << ", the next turn";
  }
}

// Three requests in a pool that holds two of them, but not their outputs.
TEST_P(Exactness, PreemptionDoesNotMatter) {
  const auto model = open();
  for (const KvFormats& format : kv_formats()) {
    const auto request = [](uint64_t seed) {
      return make_request(random_tokens(seed, kPromptTokens), 16);
    };
    std::vector<Request> requests;
    for (const uint64_t seed : {1, 2, 3}) requests.push_back(request(seed));
    // Where windows let go of all but 24 tokens, it takes less room and smaller steps.
    const bool only_windows = GetParam().shape == "tiny-windows";
    TinyEngine tight(*model, {.kv_format = format,
                              .chunk = only_windows ? 16 : 512,
                              .block_tokens = 16,
                              .blocks = only_windows ? 8 : 11});
    const std::vector<Outcome> outcomes = run(*tight.engine, std::move(requests));
    int preemptions = 0;
    for (const uint64_t seed : {1, 2, 3}) {
      const Outcome& outcome = outcomes[seed - 1];
      preemptions += outcome.stats.preemptions;
      const Outcome alone =
          run_alone(*model, {.kv_format = format, .block_tokens = 16}, request(seed));
      EXPECT_EQ(difference(outcome, alone, 16), "")
          << format.to_string() << ", request " << seed;
    }
    EXPECT_GT(preemptions, 0) << "the pool was not tight";
  }
}

TEST_P(Exactness, BlockSizesDoNotMatter) {
  const auto model = open();
  for (const KvFormats& format : kv_formats()) {
    const Outcome expected =
        run_alone(*model, {.kv_format = format, .block_tokens = 32}, target_request());
    for (const int block_tokens : {16, 64}) {
      const Outcome actual =
          run_alone(*model, {.kv_format = format, .block_tokens = block_tokens}, target_request());
      EXPECT_EQ(difference(actual, expected, kOutputTokens), "")
          << format.to_string() << ", blocks of " << block_tokens;
    }
  }
}

// Without a cache every step recomputes the whole sequence. Prefill attends to the stored keys, so
// even that gives the same bits.
TEST_P(Exactness, NoCacheGivesTheSameBits) {
  const auto model = open();
  for (const KvFormats& format : kv_formats()) {
    const Outcome on = run_alone(*model, {.kv_format = format}, target_request());
    const Outcome off =
        run_alone(*model, {.kv_format = format, .keep_kv = false}, target_request());
    EXPECT_EQ(difference(off, on, kOutputTokens), "") << format.to_string();
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Exactness, testing::ValuesIn(all_settings()), setting_name);

// Attention merges partial results per run of 512 positions: the same tests across that border.
class LongContext : public testing::TestWithParam<Setting> {};

std::vector<KvFormats> long_formats(DType weights) {
  if (weights == DType::kBF16) return {KvFormat::kBF16, KvFormat::kInt4};
  return {KvFormat::kInt8, mixed_formats()};
}

TEST_P(LongContext, ChunksThreadsCompanyAndReuse) {
  const Setting& setting = GetParam();
  const auto model = open_tiny_model(setting.shape, setting.weights, setting.isa, 1);
  const auto threaded = open_tiny_model(setting.shape, setting.weights, setting.isa, 3);
  const auto request = [](uint64_t seed) { return make_request(random_tokens(seed, 600), 4); };
  for (const KvFormats& format : long_formats(setting.weights)) {
    const Outcome expected = run_alone(*model, {.kv_format = format}, request(kTarget));
    for (const int chunk : {61, 512}) {
      const Outcome actual =
          run_alone(*threaded, {.kv_format = format, .chunk = chunk}, request(kTarget));
      EXPECT_EQ(difference(actual, expected, 4), "")
          << format.to_string() << ", 3 threads, chunk " << chunk;
    }
    TinyEngine shared(*threaded, {.kv_format = format, .chunk = 100, .block_tokens = 16});
    for (int round = 0; round < 2; ++round) {
      std::vector<Request> requests;
      for (const uint64_t seed : {2, 1, 3}) requests.push_back(request(seed));
      const std::vector<Outcome> together = run(*shared.engine, std::move(requests), 1);
      EXPECT_EQ(difference(together[1], expected, 4), "")
          << format.to_string() << ", round " << round;
      if (round == 1) {
        EXPECT_GT(together[1].stats.cached_tokens, 500);
      }
    }
  }
}

std::vector<Setting> long_settings() {
  std::vector<Setting> settings = all_settings();
  std::erase_if(settings, [](const Setting& setting) {
    return (setting.weights != DType::kQ8_0 && setting.weights != DType::kBF16) ||
           (setting.isa == Isa::kScalar && setting.shape != "tiny-llama");
  });
  return settings;
}

INSTANTIATE_TEST_SUITE_P(Tiny, LongContext, testing::ValuesIn(long_settings()), setting_name);

// The comparison itself can fail, and the runs depend on what they should depend on.
TEST(Comparison, NoticesOneBitOneTokenAndOneEvent) {
  const auto model = open_tiny_model(tiny_shapes().front(), DType::kQ8_0, Isa::kScalar, 1);
  const Outcome expected = run_alone(*model, {}, target_request());
  EXPECT_EQ(difference(expected, expected, kOutputTokens), "");

  Outcome changed = expected;
  auto& bits = reinterpret_cast<uint32_t&>(changed.logits.begin()->second[3]);
  bits ^= 1;
  EXPECT_NE(difference(changed, expected, kOutputTokens), "");

  changed = expected;
  changed.tokens.back() ^= 1;
  EXPECT_NE(difference(changed, expected, kOutputTokens), "");

  changed = expected;
  changed.finishes = 2;
  EXPECT_NE(difference(changed, expected, kOutputTokens), "");

  EXPECT_NE(difference(expected, expected, kOutputTokens + 1), "");
}

TEST(Comparison, OtherPromptsSeedsAndFormatsDiffer) {
  const auto model = open_tiny_model(tiny_shapes().front(), DType::kF32, Isa::kScalar, 1);
  const Outcome expected = run_alone(*model, {}, target_request());

  Request other_prompt = target_request();
  other_prompt.prompt.front() ^= 1;
  EXPECT_NE(difference(run_alone(*model, {}, std::move(other_prompt)), expected, kOutputTokens),
            "");

  Request other_seed = target_request();
  other_seed.sampling.seed = 43;
  EXPECT_NE(run_alone(*model, {}, std::move(other_seed)).tokens, expected.tokens);

  const Outcome rounded = run_alone(*model, {.kv_format = KvFormat::kBF16}, target_request());
  EXPECT_NE(difference(rounded, expected, kOutputTokens), "");
}

}  // namespace
}  // namespace quipu::exactness
