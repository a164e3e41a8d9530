// How much memory a model takes, and how much of it the KV cache gets.
#pragma once

#include <cstdint>
#include <string>

#include "app/options.h"
#include "base/status.h"
#include "model/config.h"

namespace quipu {

// Memory the system could still give. UNITS: bytes. SOURCE: proc(5), MemAvailable.
uint64_t available_memory_bytes();

struct KvChoice {
  uint64_t bytes = 0;        // for the tokens of decoders
  uint64_t input_bytes = 0;  // for encoded inputs
  std::string note;          // what was chosen and why, in one line
};

// Room for the whole context, but not more than half of the free memory, unless the user says how
// much. An encoder-decoder model shares it between the decoder's tokens and encoded inputs, in the
// proportion of what a whole context of each takes. UNITS: context: tokens.
// REQUIRES: check_streaming() and kv_format.check() are ok.
KvChoice choose_kv_memory(const ModelOptions& options, const ModelConfig& config, int64_t context);

// UNITS: bytes; tokens.
struct MemoryPlan {
  uint64_t weight_bytes = 0;           // of the file's tensors, in the form asked for
  uint64_t kv_bytes = 0;               // that the cache would get, for encoded inputs too
  uint64_t kv_bytes_per_token = 0;     // of a new token in all layers
  uint64_t kv_bytes_per_sequence = 0;  // of one that fills the context
  int64_t context_tokens = 0;
  uint64_t available_bytes = 0;
  std::string note;
};

// What assemble() would take, from the file's metadata alone: no weight is read.
// ERRORS: as open_model_file() and find_architecture(); kInvalidArgument for a context or a format
// that the model cannot have.
Result<MemoryPlan> plan_memory(const ModelOptions& options);

}  // namespace quipu
