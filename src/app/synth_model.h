// synth_model: GGUF files with random weights in the shapes of published models, for tests and
// benchmarks: speed and memory depend on shapes and types, not on what the weights say.
//
// Weights are drawn from normal distributions whose deviations keep activations and logits near 1:
// 1 / sqrt(inputs) for a linear layer, less for those that add to the residual stream. To be fast,
// the quantiser runs on a pool of a million values per (type, deviation), and rows are made of
// blocks drawn from it; so the file depends on the arguments alone, not on threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "app/quantize_model.h"
#include "base/status.h"

namespace quipu {

struct SynthOptions {
  std::string shape = "qwen3-0.6b";  // one of synth_shape_names()
  DType type = DType::kQ8_0;         // the mix of format/weight_types.h, as in quantize_model
  uint64_t seed = 0;
  int threads = 1;
  // Overrides of the published shape, for tests and short runs.
  std::optional<int64_t> layers;
  std::optional<int64_t> context;
  std::optional<int64_t> vocabulary;
  WriteProgressCallback progress;
};

// Every shape: the published ones ("qwen3-0.6b", ...), then small ones for tests ("tiny-llama",
// ...).
std::vector<std::string> synth_shape_names();

// Writes the model. The tokenizer model is "no_vocab". Memory: a panel of rows and the pools.
// ERRORS: kInvalidArgument for an unknown shape (with the nearest and the list) or an override out
// of range; those of quantize_model.
Status synth_model(const SynthOptions& options, const std::filesystem::path& out);

}  // namespace quipu
