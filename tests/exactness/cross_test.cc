// The cross of everything that must not matter: architectures, KV formats, what happened to a
// sequence before its logits are wanted, chunk sizes, threads, and company in the batch.
//
// Each case is compared bit by bit with the same tokens computed once, alone, in one piece, on one
// thread. The whole cross is for QUIPU_EXACTNESS=full; otherwise a cut through it, in which every
// architecture meets every format and every history, and every other value of a dimension meets each
// of those. The cut is fixed: it does not depend on chance.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <set>

#include "bare_engine.h"
#include "base/random.h"
#include "kv/host_tier.h"

namespace quipu::exactness {
namespace {

enum class History {
  kCold,
  kWarm,                 // an equal sequence ended before
  kForked,               // from one that goes on otherwise
  kTruncatedAndRegrown,  // into a block's middle
  kPreemptedAndResumed,  // while it was computed, and while it decoded
  kEvictedAndRecomputed,
  kRestoredFromTier,
};
constexpr History kHistories[] = {
    History::kCold,
    History::kWarm,
    History::kForked,
    History::kTruncatedAndRegrown,
    History::kPreemptedAndResumed,
    History::kEvictedAndRecomputed,
    History::kRestoredFromTier,
};
constexpr const char* kHistoryNames[] = {"cold",      "warm",    "forked",  "truncated",
                                         "preempted", "evicted", "restored"};
constexpr int kWhole = 512;
constexpr int kChunks[] = {1, 7, 64, kWhole};
constexpr int kThreads[] = {1, 2};
constexpr int kBatches[] = {1, 16};

constexpr size_t kPromptTokens = 75;  // crosses four blocks of 16 and a chunk of 64
constexpr int kDecodedTokens = 3;
constexpr int kCompanionChunk = 24;  // of 15 companions: with a chunk of 64 less than a step's 512
constexpr int64_t kCompanionTokens = 150;

std::vector<KvFormats> formats() {
  return {KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8, KvFormat::kInt4,
          KvFormats::parse("int4,first=int8").value()};
}

struct Case {
  KvFormats format;
  History history = History::kCold;
  int chunk = kWhole;
  int threads = 1;
  int batch = 1;

  std::string name() const {
    return fmt::format("{}, {}, chunk {}, {} threads, batch of {}", format.to_string(),
                       kHistoryNames[static_cast<int>(history)], chunk, threads, batch);
  }
};

// For one architecture, `number`.
std::vector<Case> cases(size_t number) {
  std::vector<Case> all;
  const std::vector<KvFormats> every_format = formats();
  for (size_t f = 0; f < every_format.size(); ++f) {
    for (size_t h = 0; h < std::size(kHistories); ++h) {
      for (size_t c = 0; c < std::size(kChunks); ++c) {
        for (size_t t = 0; t < std::size(kThreads); ++t) {
          for (size_t b = 0; b < std::size(kBatches); ++b) {
            // One of 16 for each format and history: another chunk, thread count and batch for each.
            const size_t turn = number + f + h;
            const bool in_cut = c == turn % 4 && t == (f + h / 2) % 2 && b == (number + h + f / 2) % 2;
            if (in_cut || wants_long_form())
              all.push_back({every_format[f], kHistories[h], kChunks[c], kThreads[t], kBatches[b]});
          }
        }
      }
    }
  }
  return all;
}

// Fifteen sequences of mixed lengths that compute and decode in the same steps.
class Company {
 public:
  Company(BareEngine& engine, int count) : engine_(engine), random_(77) {
    for (int i = 0; i < count; ++i) {
      sequences_.push_back(engine.start(
          random_tokens(500 + static_cast<uint64_t>(i), 5 + static_cast<size_t>(i) * 13 % 90)));
    }
  }
  ~Company() {
    for (const auto& sequence : sequences_) engine_.release(*sequence);
  }
  Company(const Company&) = delete;
  Company& operator=(const Company&) = delete;

  void step_with(Sequence& target, int chunk, Sequence* other = nullptr) {
    // The target's place in the batch is in the middle.
    std::vector<BareEngine::Share> shares;
    for (size_t i = 0; i <= sequences_.size(); ++i) {
      if (i == sequences_.size() / 2) {
        shares.push_back({&target, chunk});
        if (other != nullptr) shares.push_back({other, chunk});
      }
      if (i == sequences_.size()) break;
      Sequence& sequence = *sequences_[i];
      if (sequence.num_computed_tokens() == sequence.num_tokens() &&
          sequence.num_tokens() < kCompanionTokens)
        sequence.tokens.push_back(static_cast<TokenId>(random_.next_below(300)));
      shares.push_back({&sequence, kCompanionChunk});
    }
    engine_.step(shares);
  }

  const std::vector<float>& finish(Sequence& target, int chunk, Sequence* other = nullptr) {
    while (target.num_computed_tokens() < target.num_tokens()) step_with(target, chunk, other);
    return engine_.logits(target);
  }

 private:
  BareEngine& engine_;
  Random random_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

class HistoryRun {
 public:
  HistoryRun(TinyModel& model, const Case& asked)
      : asked_(asked),
        tier_(64 << 20),
        engine_(model, {asked.format, {256, 256, 256}, 16, &tier_}),
        company_(engine_, asked.batch - 1),
        prompt_(random_tokens(1, kPromptTokens)) {}

  // SHAPE: result: the bits of logits after the prompt and after each decoded token.
  std::vector<std::vector<uint32_t>> logits() {
    std::vector<std::vector<uint32_t>> all;
    std::unique_ptr<Sequence> target = begin();
    all.push_back(finish(*target));
    for (const TokenId token : random_tokens(2, kDecodedTokens)) {
      if (all.size() == 2) interrupt(*target);
      target->tokens.push_back(token);
      all.push_back(finish(*target));
    }
    engine_.release(*target);
    if (other_ != nullptr) engine_.release(*other_);
    return all;
  }

 private:
  std::vector<uint32_t> finish(Sequence& target) {
    const std::vector<float>& logits = company_.finish(target, asked_.chunk, other_.get());
    std::vector<uint32_t> bits(logits.size());
    std::ranges::transform(logits, bits.begin(), [](float x) { return std::bit_cast<uint32_t>(x); });
    return bits;
  }

  // The sequence with its history up to somewhere in the prompt.
  std::unique_ptr<Sequence> begin() {
    switch (asked_.history) {
      case History::kCold: return engine_.start(prompt_);
      case History::kWarm: {
        compute_and_release();
        std::unique_ptr<Sequence> target = engine_.start(prompt_);
        EXPECT_EQ(target->num_computed_tokens(), static_cast<int64_t>(kPromptTokens) - 1);
        return target;
      }
      case History::kForked: {
        other_ = engine_.start({prompt_.begin(), prompt_.begin() + 50});
        company_.finish(*other_, asked_.chunk);
        std::unique_ptr<Sequence> target = engine_.fork(*other_, prompt_);
        EXPECT_EQ(target->num_computed_tokens(), 50);
        const std::vector<TokenId> otherwise = random_tokens(8, 30);
        other_->tokens.insert(other_->tokens.end(), otherwise.begin(), otherwise.end());
        return target;
      }
      case History::kTruncatedAndRegrown: {
        std::vector<TokenId> astray(prompt_.begin(), prompt_.begin() + 60);
        const std::vector<TokenId> otherwise = random_tokens(8, 20);
        astray.insert(astray.end(), otherwise.begin(), otherwise.end());
        std::unique_ptr<Sequence> target = engine_.start(astray);
        company_.finish(*target, asked_.chunk);
        engine_.regrow(*target, 53, std::span(prompt_).subspan(53));
        EXPECT_LE(target->num_computed_tokens(), 53);
        return target;
      }
      case History::kPreemptedAndResumed:
      case History::kEvictedAndRecomputed: {
        std::unique_ptr<Sequence> target = engine_.start(prompt_);
        while (target->num_computed_tokens() < 40) company_.step_with(*target, asked_.chunk);
        interrupt(*target);
        return target;
      }
      case History::kRestoredFromTier: {
        compute_and_release();
        std::unique_ptr<Sequence> target = engine_.start(prompt_);
        interrupt(*target);
        return target;
      }
    }
    return nullptr;
  }

  void compute_and_release() {
    const std::unique_ptr<Sequence> first = engine_.start(prompt_);
    company_.finish(*first, asked_.chunk);
    engine_.release(*first);
  }

  // What preemption, eviction and the tier do to a sequence; nothing in other histories.
  void interrupt(Sequence& target) {
    const int64_t computed = target.num_computed_tokens();
    switch (asked_.history) {
      case History::kPreemptedAndResumed:
        engine_.release(target);
        engine_.restart(target);
        EXPECT_GE(target.num_computed_tokens(), std::min(computed, target.num_tokens() - 1));
        return;
      case History::kEvictedAndRecomputed:
        engine_.release(target);
        engine_.cache().clear();
        engine_.restart(target);
        EXPECT_EQ(target.num_computed_tokens(), 0);
        return;
      case History::kRestoredFromTier: {
        engine_.release(target);
        engine_.evict_all();
        const int64_t before = engine_.cache().counters().blocks_restored;
        const int64_t promised = engine_.promote(target);
        EXPECT_EQ(promised, std::min(computed, target.num_tokens() - 1));
        EXPECT_GT(engine_.cache().counters().blocks_restored, before);
        engine_.restart(target);
        EXPECT_EQ(target.num_computed_tokens(), promised);
        return;
      }
      default: return;
    }
  }

  Case asked_;
  HostTier tier_;
  BareEngine engine_;
  Company company_;
  std::vector<TokenId> prompt_;
  std::unique_ptr<Sequence> other_;  // a fork's source, which goes on too
};

class Cross : public testing::TestWithParam<std::string> {};

TEST_P(Cross, NothingThatMustNotMatterDoes) {
  const std::vector<std::string> shapes = tiny_shapes();
  const auto number = static_cast<size_t>(std::ranges::find(shapes, GetParam()) - shapes.begin());
  const Isa isa = detect_cpu_features().usable.back();
  const std::unique_ptr<TinyModel> models[] = {
      open_tiny_model(GetParam(), DType::kQ8_0, isa, kThreads[0]),
      open_tiny_model(GetParam(), DType::kQ8_0, isa, kThreads[1])};
  std::map<std::string, std::vector<std::vector<uint32_t>>> expected;
  for (const KvFormats& format : formats())
    expected[format.to_string()] = HistoryRun(*models[0], {.format = format}).logits();
  int count = 0;
  for (const Case& one : cases(number)) {
    TinyModel& model = *models[one.threads == kThreads[0] ? 0 : 1];
    ASSERT_TRUE(HistoryRun(model, one).logits() == expected[one.format.to_string()]) << one.name();
    ++count;
  }
  fmt::print("{} cases\n", count);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Cross, testing::ValuesIn(tiny_shapes()), [](const auto& test) {
  std::string name = test.param.substr(5);
  std::ranges::replace(name, '-', '_');
  return name;
});

// The cut leaves out combinations, but no value.
TEST(CrossCut, HasEveryValueOfEveryDimension) {
  std::set<std::string> seen;
  std::set<std::pair<size_t, std::string>> of_shape;
  for (size_t number = 0; number < tiny_shapes().size(); ++number) {
    for (const Case& one : cases(number)) {
      const std::string history = kHistoryNames[static_cast<int>(one.history)];
      const std::string values[] = {one.format.to_string(), history,
                                    fmt::format("chunk {}", one.chunk),
                                    fmt::format("threads {}", one.threads),
                                    fmt::format("batch {}", one.batch)};
      for (const std::string& value : values) of_shape.emplace(number, value);
      for (const std::string& a : values) {
        for (const std::string& b : values) seen.insert(a + " with " + b);
      }
    }
  }
  // Every architecture meets every value, and every two values of different dimensions meet.
  EXPECT_EQ(of_shape.size(), tiny_shapes().size() * (5 + 7 + 4 + 2 + 2));
  size_t pairs = 0;
  const size_t sizes[] = {5, 7, 4, 2, 2};
  for (size_t i = 0; i < 5; ++i) {
    for (size_t j = 0; j < 5; ++j) pairs += i == j ? sizes[i] : sizes[i] * sizes[j];
  }
  EXPECT_EQ(seen.size(), pairs);
}

}  // namespace
}  // namespace quipu::exactness
