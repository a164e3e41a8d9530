// config.json and generation_config.json as GGUF metadata.
//
// Untrusted text in, one vocabulary out: the keys of format/hf_config.cc are those that a GGUF
// converted from the same model holds. tests/fuzz/hf_config_fuzz.cc feeds it hostile text.
// THREADS: pure functions.
#pragma once

#include <string_view>
#include <vector>

#include "base/status.h"
#include "format/hf_architectures.h"
#include "format/metadata.h"

namespace quipu {

// Divisors of the rotary frequencies that a configuration holds and GGUF has as a tensor.
struct RopeFactors {
  std::string_view gguf_name;
  std::vector<float> values;  // SHAPE: [rotated elements of a head / 2]
};

struct HfConfig {
  const HfArchitecture* architecture = nullptr;
  Metadata metadata;
  int64_t block_count = 0;
  int64_t head_count = 0;
  int64_t head_count_kv = 0;
  bool tied_embeddings = false;
  std::vector<RopeFactors> rope_factors;  // of llama3 scaling one tensor, of LongRoPE two
};

// The llama3 rope scaling of Llama 3.1 and later.
struct Llama3Rope {
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_context = 8192;
};

// The divisor of each of the head_dim / 2 rotary frequencies: long wavelengths are divided by
// `factor`, short ones kept, those between blended.
// SOURCE: Llama 3.1 model card; transformers' "llama3" rope.
std::vector<float> llama3_rope_factors(const Llama3Rope& rope, int64_t head_dim);

// `generation` is the text of generation_config.json, empty when there is none. `name` becomes
// general.name.
// ERRORS: kCorruptData for text that is not a configuration (key, expected, found); kUnsupported
// for an architecture, activation, rope scaling or pre-quantised weights that quipu does not
// handle.
Result<HfConfig> parse_hf_config(std::string_view config, std::string_view config_file,
                                 std::string_view generation, std::string_view generation_file,
                                 std::string_view name);

}  // namespace quipu
