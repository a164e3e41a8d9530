#include "text/constraint_cache.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

namespace quipu {
namespace {

namespace fs = std::filesystem;

ConstraintSource choice(int i) {
  return {ConstraintKind::kChoice, fmt::format(R"(["yes {}", "no"])", i)};
}

class ConstraintCacheTest : public testing::Test {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::from_hf_directory(fs::path(QUIPU_SOURCE_DIR) / "models" / "tokenizer").value();
  ConstraintCompiler compiler_{*tokenizer_};

  const Constraint* get(ConstraintCache& cache, const ConstraintSource& source,
                        std::string_view owner = "") {
    return cache.get(owner, source).value().get();
  }
};

TEST_F(ConstraintCacheTest, CompilesOnceForAnOwner) {
  ConstraintCache cache(compiler_);
  const Constraint* first = get(cache, choice(1));
  EXPECT_EQ(get(cache, choice(1)), first);
  EXPECT_NE(get(cache, choice(2)), first);
  EXPECT_NE(get(cache, choice(1), "another"), first);
  // The same text of another kind, and an owner that looks like the beginning of a source.
  const std::string text = "[\"a\"]";
  EXPECT_NE(get(cache, {ConstraintKind::kChoice, text}),
            get(cache, {ConstraintKind::kRegex, text}));
  EXPECT_NE(get(cache, {ConstraintKind::kChoice, text}, "0:4:"),
            get(cache, {ConstraintKind::kChoice, text}));
  const ConstraintCacheCounters counters = cache.counters();
  EXPECT_EQ(counters.misses, 6);
  EXPECT_EQ(counters.hits, 2);
  EXPECT_EQ(counters.entries, 6);
  EXPECT_EQ(counters.evictions, 0);
  EXPECT_GT(counters.compile_ns, 0);
  EXPECT_GE(counters.bytes, 6u * (uint64_t{64} << 10));
}

TEST_F(ConstraintCacheTest, GivesUpTheOneUsedLongestAgo) {
  ConstraintCache cache(compiler_, {.entries = 2});
  const Constraint* first = get(cache, choice(1));
  get(cache, choice(2));
  EXPECT_EQ(get(cache, choice(1)), first);  // now 2 is the older one
  const std::shared_ptr<const Constraint> held = *cache.get("", choice(2));
  get(cache, choice(3));
  EXPECT_EQ(cache.counters().entries, 2);
  EXPECT_EQ(cache.counters().evictions, 1);
  const int64_t misses = cache.counters().misses;
  get(cache, choice(2));
  EXPECT_EQ(cache.counters().misses, misses);
  get(cache, choice(1));
  EXPECT_EQ(cache.counters().misses, misses + 1);
  EXPECT_TRUE(held->duplicate().ok());  // whoever has one keeps it
}

TEST_F(ConstraintCacheTest, KeepsToItsBytes) {
  uint64_t bytes = 0;
  {
    ConstraintCache cache(compiler_);
    get(cache, choice(1));
    bytes = cache.counters().bytes;
  }
  ConstraintCache cache(compiler_, {.bytes = bytes * 5 / 2});
  for (int i = 0; i < 5; ++i) get(cache, choice(i));
  EXPECT_EQ(cache.counters().entries, 2);
  EXPECT_LE(cache.counters().bytes, bytes * 5 / 2);
  EXPECT_EQ(cache.counters().evictions, 3);
  // One that is larger than all of it does not drive the others out.
  std::string large = "[\"x\"";
  while (large.size() < 20'000) large += fmt::format(",\"{}\"", std::string(200, 'y'));
  get(cache, {ConstraintKind::kChoice, large + "]"});
  EXPECT_EQ(cache.counters().entries, 2);
  EXPECT_EQ(cache.counters().evictions, 3);
}

TEST_F(ConstraintCacheTest, KeepsNoFailure) {
  ConstraintCache cache(compiler_);
  for (int i = 0; i < 2; ++i) {
    const auto refused = cache.get("", {ConstraintKind::kRegex, "(a"});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), ErrorCode::kInvalidArgument);
  }
  EXPECT_EQ(cache.counters().misses, 2);
  EXPECT_EQ(cache.counters().entries, 0);
  EXPECT_EQ(cache.counters().bytes, 0u);
}

TEST_F(ConstraintCacheTest, ManyThreadsCompileOnceAndGoTheirOwnWays) {
  ConstraintCache cache(compiler_, {.entries = 3});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        const auto kept = cache.get("", choice((t * 20 + i) % 5));
        ASSERT_TRUE(kept.ok());
        Constraint state = (*kept)->duplicate().value();
        std::vector<uint32_t> words((tokenizer_->vocab_size() + 31) / 32);
        ASSERT_TRUE(state.allowed(words).ok());
        for (const char* letter : {"n", "o"})
          ASSERT_TRUE(state.accept(*tokenizer_->find(letter)).ok());
        EXPECT_TRUE(state.is_complete());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const ConstraintCacheCounters counters = cache.counters();
  EXPECT_EQ(counters.hits + counters.misses, 80);
  EXPECT_LE(counters.entries, 3);

  // Together at one that nobody has: one of them compiles.
  threads.clear();
  ConstraintCache another(compiler_);
  for (int t = 0; t < 4; ++t) threads.emplace_back([&] { another.get("", choice(9)).value(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(another.counters().misses, 1);
  EXPECT_EQ(another.counters().hits, 3);
}

}  // namespace
}  // namespace quipu
