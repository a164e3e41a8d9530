// Windows and the cache, bit for bit: sequences that go back, split, lose what their windows need
// and compute it again give the logits of a sequence that was computed once, from its beginning.
#include <gtest/gtest.h>

#include "engine/model_runner.h"
#include "tiny_engine.h"

namespace quipu::exactness {
namespace {

constexpr int kBlockTokens = 16;
const char* const kShapes[] = {"tiny-windows", "tiny-mixed"};

// The cache and the model without a scheduler: a test says what is computed, cut and split.
class Bench {
 public:
  Bench(TinyModel& model, KvFormat format, const std::vector<int64_t>& blocks)
      : storage_(make_storage(model, format, blocks)),
        cache_(cache_config(blocks), clock_),
        runner_(*model.model, *model.backend, storage_, nullptr, nullptr, clock_) {}

  std::unique_ptr<Sequence> start(std::vector<TokenId> tokens) {
    Request request;
    request.prompt = std::move(tokens);
    request.logits_wanted = LogitsWanted::kSampled;
    request.on_logits = [this](int64_t, std::span<const float> logits) {
      last_logits_.assign(logits.begin(), logits.end());
    };
    auto sequence = std::make_unique<Sequence>(std::move(request), cache_.make_sequence(), 0);
    cache_.begin(sequence->kv, sequence->tokens, sequence->num_tokens() - 1, plan_.copies);
    return sequence;
  }

  // Computes what is missing, `chunk` tokens at a time. SHAPE: result: logits of the last token.
  std::vector<float> finish(Sequence& sequence, int chunk) {
    while (sequence.num_computed_tokens() < sequence.num_tokens()) {
      const int64_t done = sequence.num_computed_tokens();
      const auto count = static_cast<int>(std::min<int64_t>(chunk, sequence.num_tokens() - done));
      const bool fits = cache_.reserve(sequence.kv, done + count);
      QUIPU_CHECK(fits, "no room for {} tokens", done + count);
      plan_.sequences = {{&sequence, done, count}};
      runner_.run(plan_);
      cache_.append(sequence.kv, sequence.tokens, count);
      cache_.check_invariants();
      plan_.clear();
    }
    return last_logits_;
  }

  // Goes back to `count` tokens and on with others.
  void branch(Sequence& sequence, int64_t count, uint64_t seed) {
    cache_.truncate(sequence.kv, count, plan_.copies);
    sequence.tokens.resize(static_cast<size_t>(count));
    const std::vector<TokenId> more = random_tokens(seed, 30);
    sequence.tokens.insert(sequence.tokens.end(), more.begin(), more.end());
    cache_.check_invariants();
  }

  std::unique_ptr<Sequence> fork(const Sequence& source, uint64_t seed) {
    std::vector<TokenId> tokens = source.tokens;
    const std::vector<TokenId> more = random_tokens(seed, 30);
    tokens.insert(tokens.end(), more.begin(), more.end());
    Request request = source.request;
    request.prompt = std::move(tokens);
    auto sequence = std::make_unique<Sequence>(std::move(request), cache_.make_sequence(), 0);
    const bool forked = cache_.fork(source.kv, sequence->kv, plan_.copies);
    QUIPU_CHECK(forked, "no block for a fork");
    return sequence;
  }

  void release(Sequence& sequence) { cache_.release(sequence.kv, sequence.tokens); }
  const KvCounters& counters() const { return cache_.counters(); }

 private:
  static KvStorage make_storage(TinyModel& model, KvFormat format,
                                const std::vector<int64_t>& blocks) {
    const KvCacheSpec spec = kv_cache_spec_for(model.model->config(), format, kBlockTokens);
    Result<KvStorage> storage =
        KvStorage::create(*model.backend, spec, std::span(blocks).first(spec.groups.size()));
    QUIPU_CHECK(storage.ok(), "{}", storage.status().message());
    return std::move(storage).value();
  }
  KvCacheConfig cache_config(const std::vector<int64_t>& blocks) const {
    KvCacheConfig config = {.groups = {}, .block_tokens = kBlockTokens};
    const KvCacheSpec& spec = storage_.spec();
    for (size_t g = 0; g < spec.groups.size(); ++g)
      config.groups.push_back({static_cast<int>(blocks[g]), spec.groups[g].lifetime});
    return config;
  }

  FakeClock clock_;
  KvStorage storage_;
  KvCache cache_;
  ModelRunner runner_;
  StepPlan plan_;
  std::vector<float> last_logits_;
};

struct Case {
  std::string shape;
  KvFormat format;
};

class Windows : public testing::TestWithParam<Case> {
 protected:
  Windows()
      : model_(open_tiny_model(GetParam().shape, DType::kQ8_0, detect_cpu_features().usable.back(),
                               2)) {}

  // Blocks of each group (the first is the windowed one in a model that has no other).
  std::vector<int64_t> blocks(int64_t full, int64_t windowed) const {
    return GetParam().shape == "tiny-mixed" ? std::vector{full, windowed} : std::vector{windowed};
  }

  std::vector<float> computed_once(const std::vector<TokenId>& tokens) {
    Bench bench(*model_, GetParam().format, blocks(64, 64));
    const auto sequence = bench.start(tokens);
    std::vector<float> logits = bench.finish(*sequence, 512);
    bench.release(*sequence);
    return logits;
  }

  std::unique_ptr<TinyModel> model_;
};

TEST_P(Windows, GoingBackToAnyPointAndOn) {
  // With room for all that windows leave behind, and with so little that most of it is gone.
  for (const int64_t windowed : {64, 9}) {
    Bench bench(*model_, GetParam().format, blocks(64, windowed));
    const auto sequence = bench.start(random_tokens(1, 150));
    bench.finish(*sequence, 32);
    uint64_t seed = 100;
    for (const int64_t point : {140, 128, 97, 96, 75, 33, 1, 0}) {
      bench.branch(*sequence, point, ++seed);
      EXPECT_EQ(bench.finish(*sequence, 7), computed_once(sequence->tokens))
          << "back to " << point << " with " << windowed << " blocks";
    }
    bench.release(*sequence);
  }
}

TEST_P(Windows, ForksGoTheirOwnWays) {
  Bench bench(*model_, GetParam().format, blocks(64, 16));
  const auto trunk = bench.start(random_tokens(1, 100));
  bench.finish(*trunk, 32);
  const auto left = bench.fork(*trunk, 7);
  const auto right = bench.fork(*trunk, 8);
  const std::vector<float> of_left = bench.finish(*left, 5);
  EXPECT_EQ(bench.finish(*right, 64), computed_once(right->tokens));
  EXPECT_EQ(of_left, computed_once(left->tokens));
  bench.branch(*trunk, 90, 9);
  EXPECT_EQ(bench.finish(*trunk, 64), computed_once(trunk->tokens));
  for (Sequence* sequence : {trunk.get(), left.get(), right.get()}) bench.release(*sequence);
}

// What a window needs was evicted while the rest stayed: the prompt is computed again from where
// everything is whole.
TEST_P(Windows, EvictedWindowsAreComputedAgain) {
  Bench bench(*model_, GetParam().format, blocks(64, 8));
  const std::vector<TokenId> prompt = random_tokens(1, 120);
  const std::vector<float> expected = computed_once(prompt);
  for (int round = 0; round < 3; ++round) {
    const auto again = bench.start(prompt);
    EXPECT_EQ(bench.finish(*again, 32), expected) << "round " << round;
    bench.release(*again);
    const auto other = bench.start(random_tokens(static_cast<uint64_t>(50 + round), 120));
    bench.finish(*other, 32);
    bench.release(*other);
  }
  EXPECT_GT(bench.counters().window_blocks_evicted, 0);
  EXPECT_GT(bench.counters().window_blocks_left, 0);
}

// The next turn of a conversation needs the end of the window only, and finds it.
TEST_P(Windows, TheNextTurnGoesOnFromTheWindow) {
  Bench bench(*model_, GetParam().format, blocks(64, 12));
  std::vector<TokenId> tokens = random_tokens(1, 110);
  for (int turn = 0; turn < 4; ++turn) {
    const auto sequence = bench.start(tokens);
    if (turn > 0) {
      EXPECT_EQ(sequence->num_computed_tokens(), sequence->num_tokens() - 20);
    }
    EXPECT_EQ(bench.finish(*sequence, 32), computed_once(tokens)) << "turn " << turn;
    bench.release(*sequence);
    const std::vector<TokenId> more = random_tokens(static_cast<uint64_t>(60 + turn), 20);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* shape : kShapes) {
    for (const KvFormat format : kKvFormats) all.push_back({shape, format});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Tiny, Windows, testing::ValuesIn(cases()), [](const auto& test) {
  return fmt::format("{}_{}", test.param.shape.substr(5), kv_format_name(test.param.format));
});

}  // namespace
}  // namespace quipu::exactness
