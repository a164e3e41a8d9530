#include "app/simulate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "app/line_plot.h"

namespace quipu {
namespace {

// Ten conversations of a few turns, interleaved, each turn repeating what came before.
std::vector<TraceRequest> conversations(int64_t turns, int64_t blocks_per_turn) {
  std::vector<TraceRequest> trace;
  std::vector<std::vector<int64_t>> history(10);
  int64_t next_block = 0;
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (auto& blocks : history) {
      for (int64_t i = 0; i < blocks_per_turn; ++i) blocks.push_back(next_block++);
      TraceRequest request;
      request.arrival_ms = static_cast<int64_t>(trace.size()) * 10'000;
      request.hash_ids = blocks;
      request.input_tokens = static_cast<int64_t>(blocks.size()) * kTraceBlockTokens;
      request.output_tokens = 5;
      trace.push_back(request);
    }
  }
  return trace;
}

TEST(Simulate, ALargeCacheReusesEverythingThatCameBefore) {
  const std::vector<TraceRequest> trace = conversations(4, 2);
  const SimulationResult result = *simulate(trace, {.kv_tokens = 1'000'000});
  EXPECT_EQ(result.requests, 40);
  EXPECT_EQ(result.refused, 0);
  // Turn t repeats (t - 1) * 2 blocks: 10 * (2 + 4 + 6) blocks of 10 * (2 + 4 + 6 + 8).
  EXPECT_EQ(result.reused_tokens, 10 * 12 * kTraceBlockTokens);
  EXPECT_EQ(result.output_tokens, 40 * 5);
  EXPECT_EQ(simulate_optimum(trace, 1'000'000).reused_tokens, result.reused_tokens);
}

TEST(Simulate, NoPolicyBeatsTheOptimumAndASmallCacheEvicts) {
  const std::vector<TraceRequest> trace = conversations(6, 2);
  for (const char* policy : {"lru", "cost", "reuse"}) {
    for (const int64_t tokens : {8'192, 16'384, 32'768}) {
      const SimulationResult result = *simulate(trace, {.kv_tokens = tokens, .policy = policy});
      EXPECT_EQ(result.requests, 60);
      EXPECT_LE(result.reused_tokens, simulate_optimum(trace, tokens).reused_tokens)
          << policy << " " << tokens;
      EXPECT_GT(result.evicted_blocks, 0);
    }
  }
}

TEST(Simulate, TheSameTraceGivesTheSameResult) {
  const std::vector<TraceRequest> trace = conversations(5, 3);
  const SimulationResult a = *simulate(trace, {.kv_tokens = 20'000}),
                         b = *simulate(trace, {.kv_tokens = 20'000});
  EXPECT_EQ(a.reused_tokens, b.reused_tokens);
  EXPECT_EQ(a.ttft_p99_s, b.ttft_p99_s);
}

TEST(Simulate, RefusesWhatItCannotRun) {
  const std::vector<TraceRequest> trace = conversations(1, 1);
  EXPECT_FALSE(simulate(trace, {.kv_tokens = 1000, .policy = "magic"}).ok());
  EXPECT_FALSE(simulate(trace, {.kv_tokens = 1}).ok());
  EXPECT_EQ(simulate(trace, {.kv_tokens = 256})->refused, 10);  // prompts of 512 tokens
}

TEST(Trace, ReadsBothFormsAndNamesTheBadLine) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / fmt::format("quipu-trace-{}.jsonl", getpid());
  std::ofstream(path)
      << R"({"timestamp": 5, "input_length": 600, "output_length": 3, "hash_ids": [7, 8]})"
      << "\n\n"
      << R"({"timestamp": 1, "tokens": [1, 2, 3], "output_length": 1})" << "\n";
  const std::vector<TraceRequest> trace = *read_trace(path, 0);
  ASSERT_EQ(trace.size(), 2u);
  EXPECT_EQ(trace[0].arrival_ms, 1);  // sorted
  EXPECT_EQ(trace[0].input_tokens, 3);
  EXPECT_EQ(trace[1].hash_ids, (std::vector<int64_t>{7, 8}));
  for (const char* bad :
       {"{", "{}", R"({"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [7]})",
        R"({"timestamp": -1, "tokens": [], "output_length": 1})",
        R"({"timestamp": 0, "tokens": "x", "output_length": 1})"}) {
    std::ofstream(path) << bad << "\n";
    const Status status = read_trace(path, 0).status();
    EXPECT_EQ(status.code(), ErrorCode::kCorruptData) << bad;
    EXPECT_NE(status.message().find("line 1"), std::string::npos) << status.message();
  }
  std::filesystem::remove(path);
}

TEST(LinePlot, DrawsEveryLineAndEscapesText) {
  const std::string svg =
      render_svg({.title = "a < b", .lines = {{"one", {{1, 2}, {2, 3}}}, {"two", {{1, 0}}}}});
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_NE(svg.find(">two<"), std::string::npos);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace quipu
