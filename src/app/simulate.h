// simulate: the real scheduler and the real cache bookkeeping over a trace of requests, with a cost
// model in the place of the model. It answers what a cache of a given size would save.
//
// Nothing is computed; time is a fake clock that each step advances by what the step would cost.
// THREADS: plain functions; one simulation is single-threaded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"

namespace quipu {

// One request of a trace. Equal hash ids stand for equal runs of kTraceBlockTokens tokens.
struct TraceRequest {
  int64_t arrival_ms = 0;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  std::vector<int64_t> hash_ids;
};

inline constexpr int64_t kTraceBlockTokens = 512;

// Reads JSON lines, in either of two forms:
//   {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}    (Mooncake's)
//   {"timestamp": ms, "tokens": [...], "output_length": n}                         (plain token
//   logs)
// Token logs get hash ids of their own, one for each distinct run of kTraceBlockTokens tokens.
// SOURCE: Qin et al. 2024, Mooncake, trace release. ERRORS: kNotFound, kIo, kCorruptData (the
// line).
Result<std::vector<TraceRequest>> read_trace(const std::filesystem::path& path,
                                             int64_t requests_max);

// What a step costs: the larger of reading the weights and multiplying with them, and attention's
// multiplications for what is prefilled, its bytes for what is decoded.
struct MachineModel {
  double parameters = 8e9;
  double weight_bytes = 8.5e9;
  double kv_bytes_per_token = 128 * 1024;
  // 4 * layers * query heads * head dim: multiply-adds of attention per token and position,
  // times 2.
  double attention_flops_per_token_position = 4.0 * 32 * 32 * 128;
  double flops = 50e12;      // UNITS: operations per second that products reach
  double bandwidth = 400e9;  // UNITS: bytes per second
};

struct SimulationOptions {
  MachineModel machine;
  int64_t kv_tokens = 0;  // what the pool holds
  int block_tokens = 32;
  std::string policy = "cost";
  int batch_tokens_max = 2048;
  int sequences_max = 256;
  double speed = 1;  // the trace's clock runs this many times as fast
};

// UNITS: tokens, seconds, as named.
struct SimulationResult {
  std::string policy;
  int64_t kv_tokens = 0;
  int64_t requests = 0, refused = 0;
  int64_t input_tokens = 0, output_tokens = 0;
  int64_t reused_tokens = 0;    // of the input, found in the cache
  int64_t computed_tokens = 0;  // of input, including what was computed again after a preemption
  int64_t evicted_blocks = 0, folded_blocks = 0, preemptions = 0;
  // Room in the last blocks of running requests that holds no token, as a share of the room they
  // hold, averaged over simulated time.
  double waste = 0;
  double simulated_s = 0;
  double wall_s = 0;
  double ttft_p50_s = 0, ttft_p90_s = 0, ttft_p99_s = 0;
  double output_tokens_per_s = 0;

  double hit_ratio() const {
    return input_tokens == 0
               ? 0
               : static_cast<double>(reused_tokens) / static_cast<double>(input_tokens);
  }
};

// ERRORS: kInvalidArgument (an unknown policy, a pool smaller than a block).
Result<SimulationResult> simulate(const std::vector<TraceRequest>& trace,
                                  const SimulationOptions& options);

// The same trace with perfect knowledge of the future: on every miss, the block that is needed last
// goes (Belady's MIN over trace blocks, one request after the other). An upper bound for the hit
// ratio of any policy. SOURCE: Belady 1966.
SimulationResult simulate_optimum(const std::vector<TraceRequest>& trace, int64_t kv_tokens);

}  // namespace quipu
