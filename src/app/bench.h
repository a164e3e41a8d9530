// bench: how fast this machine runs a model, next to what it could do at most.
//
// Two measurements for each setting (format of keys and values, cache on or off, depth, batch):
//   prefill: `batch` sequences that have `depth` tokens behind them compute `prompt` more each, up
//            to their first output token;
//   decode:  `batch` sequences of `depth` tokens produce `generate` tokens each, together.
// Token ids are random, so a model without a vocabulary will do. With a shared prefix, that many
// tokens come before each sequence's own and are the same for all.
//
// The limit of a row is the time that the machine needs at least: to read once every byte that the
// row must read (weights once per step, keys and values of the tokens seen), or to do its
// multiply-adds at the measured peak of the formats involved, whichever takes longer. The bandwidth
// of memory may move from minute to minute: each repetition is measured between two plain reads.
// THREADS: one thread, the engine thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/options.h"
#include "base/status.h"

namespace quipu {

struct BenchOptions {
  ModelOptions model;  // kv_format and kv_cache are taken from the lists below
  int64_t prompt = 512;
  int64_t generate = 64;
  std::vector<int64_t> depths = {0};
  std::vector<int64_t> batches = {1};
  std::vector<KvFormat> kv_formats = {KvFormat::kBF16};
  std::vector<bool> kv_cache = {true};
  int64_t shared_prefix = 0;
  int repeat = 5;
  uint64_t seed = 1;             // of the token ids
  double measure_seconds = 0.3;  // for each of the machine's limits
};

// What the machine reached at best when it was measured, before anything else ran.
struct MachineLimits {
  double read_bytes_per_s = 0;
  double int8_ops = 0, bf16_flops = 0, f32_flops = 0;  // per second
};

// Of the repetitions.
struct Spread {
  double median = 0, lowest = 0, highest = 0;
};

enum class BenchKind { kPrefill, kDecode };

struct BenchRow {
  BenchKind kind = BenchKind::kPrefill;
  KvFormat kv_format = KvFormat::kBF16;
  bool kv_cache = true;
  int64_t depth = 0, batch = 1;
  int64_t tokens = 0;         // computed (prefill) or produced (decode) by one repetition
  int64_t cached_tokens = 0;  // of the prompts, found in the cache, in the last repetition
  Spread seconds;             // of one repetition
  double bytes = 0;           // that one repetition must read at least
  double read_bytes_per_s = 0;  // of the plain reads around the repetitions, the median
  double limit_seconds = 0;   // see above
  uint64_t hash = 0;          // of the output tokens of all repetitions
  // Decode: the median time from each output token of the first sequence to the next, in ms.
  std::vector<double> token_ms;

  double tokens_per_s() const { return static_cast<double>(tokens) / seconds.median; }
  double bytes_per_s() const { return bytes / seconds.median; }
  double share_of_limit() const { return limit_seconds / seconds.median; }
};

struct BenchReport {
  MachineLimits limits;
  std::string model_name, backend;
  size_t weight_bytes = 0;
  double load_ms = 0;
  std::vector<BenchRow> rows;
};

// Called before each row is measured; false stops.
using BenchProgress = std::function<bool(size_t rows_done, size_t rows_total)>;

// ERRORS: kInvalidArgument for settings that the context does not hold (with the numbers),
// kCancelled; those of open_model_file(), make_cpu_backend(), load_model() and Engine::create().
Result<BenchReport> run_bench(const BenchOptions& options, const BenchProgress& progress);

}  // namespace quipu
