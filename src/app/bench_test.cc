// What bench counts and repeats; not how fast anything is.
#include "app/bench.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "app/synth_model.h"

namespace quipu {
namespace {

class BenchTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    path() = std::filesystem::temp_directory_path() / fmt::format("quipu-bench-{}.gguf", getpid());
    const Status status = synth_model({.shape = "tiny-qwen3", .type = DType::kQ8_0}, path());
    ASSERT_TRUE(status.ok()) << status.message();
  }
  static void TearDownTestSuite() { std::filesystem::remove(path()); }
  static std::filesystem::path& path() {
    static std::filesystem::path path;
    return path;
  }

  static BenchOptions options(int threads = 1) {
    BenchOptions options;
    options.model.model = path();
    options.model.threads = threads;
    options.prompt = 40;
    options.generate = 6;
    options.repeat = 2;
    options.measure_seconds = 0.01;
    return options;
  }

  static BenchReport report_of(const BenchOptions& options) {
    Result<BenchReport> report = run_bench(options, {});
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? std::move(report).value() : BenchReport();
  }
};

TEST_F(BenchTest, CountsWhatIsComputed) {
  BenchOptions wanted = options();
  wanted.depths = {0, 70};
  wanted.batches = {1, 3};
  wanted.kv_formats = {KvFormat::kBF16, KvFormat::kF32};
  const BenchReport report = report_of(wanted);
  ASSERT_EQ(report.rows.size(), 16u);
  for (const BenchRow& row : report.rows) {
    if (row.kind == BenchKind::kPrefill) {
      EXPECT_EQ(row.tokens, 40 * row.batch);  // what lies behind came from the cache
      EXPECT_EQ(row.cached_tokens, row.depth * row.batch);
      EXPECT_TRUE(row.token_ms.empty());
    } else {
      EXPECT_EQ(row.tokens, 6 * row.batch);
      EXPECT_EQ(row.token_ms.size(), 6u);
      EXPECT_EQ(row.cached_tokens, (row.depth == 0 ? 0 : row.depth - 1) * row.batch);
    }
    EXPECT_GT(row.seconds.lowest, 0);
    EXPECT_LE(row.seconds.lowest, row.seconds.median);
    EXPECT_LE(row.seconds.median, row.seconds.highest);
    EXPECT_GT(row.read_bytes_per_s, 0);
    EXPECT_GE(row.limit_seconds, row.bytes / row.read_bytes_per_s);
    EXPECT_GT(row.bytes, 0);
  }
  EXPECT_GT(report.limits.read_bytes_per_s, 0);
  EXPECT_GT(report.limits.int8_ops, 0);
  // Keys and values of f32 are twice those of bf16; weights are the same.
  const auto decode = [&](KvFormat format, int64_t depth) -> const BenchRow& {
    for (const BenchRow& row : report.rows) {
      if (row.kind == BenchKind::kDecode && row.kv_format == format && row.depth == depth &&
          row.batch == 1)
        return row;
    }
    ADD_FAILURE() << "no such row";
    return report.rows.front();
  };
  const double weights = 6.0 * static_cast<double>(report.weight_bytes);
  EXPECT_NEAR(decode(KvFormat::kF32, 70).bytes - weights,
              2 * (decode(KvFormat::kBF16, 70).bytes - weights), 1);
}

TEST_F(BenchTest, OutputsDependOnTheSettingAlone) {
  const auto hashes = [](const BenchReport& report) {
    std::vector<uint64_t> list;
    for (const BenchRow& row : report.rows) list.push_back(row.hash);
    return list;
  };
  BenchOptions both = options();
  both.kv_cache = {true, false};
  both.depths = {33};
  both.batches = {1, 3};
  both.model.prefill_chunk = 16;  // without the cache, sequences begin at different steps
  const std::vector<uint64_t> one = hashes(report_of(both));
  ASSERT_EQ(one.size(), 8u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(one[i], one[i + 4]) << i;  // cache on and off
  both.model.threads = 2;
  EXPECT_EQ(hashes(report_of(both)), one);
  both.seed = 2;
  EXPECT_NE(hashes(report_of(both)), one);
}

TEST_F(BenchTest, ASharedPrefixIsThereOnce) {
  BenchOptions shared = options();
  shared.shared_prefix = 64;
  shared.depths = {0, 20};
  shared.batches = {4};
  shared.prompt = 0;
  const BenchReport report = report_of(shared);
  ASSERT_EQ(report.rows.size(), 2u);
  EXPECT_EQ(report.rows[0].cached_tokens, 4 * 63);
  EXPECT_EQ(report.rows[1].cached_tokens, 4 * 83);
  BenchOptions apart = options();
  apart.depths = {84};
  apart.batches = {4};
  apart.prompt = 0;
  EXPECT_LT(report.rows[1].bytes, report_of(apart).rows[0].bytes);
}

TEST_F(BenchTest, RefusesWhatTheContextDoesNotHold) {
  BenchOptions large = options();
  large.depths = {4096};
  const Result<BenchReport> report = run_bench(large, {});
  EXPECT_EQ(report.status().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(report.status().message().find("2048"), std::string::npos) << report.status().message();
  BenchOptions nothing = options();
  nothing.prompt = nothing.generate = 0;
  EXPECT_EQ(run_bench(nothing, {}).status().code(), ErrorCode::kInvalidArgument);
  const Result<BenchReport> stopped = run_bench(options(), [](size_t, size_t) { return false; });
  EXPECT_EQ(stopped.status().code(), ErrorCode::kCancelled);
}

}  // namespace
}  // namespace quipu
