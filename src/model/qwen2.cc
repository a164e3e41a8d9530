// Qwen 1.5, 2 and 2.5: Llama with biases on q, k and v, and rope in halves.
// SOURCE: Yang et al. 2024, Qwen2 technical report.
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_qwen2_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "qwen2"));
  QUIPU_RETURN_IF_ERROR(refuse_partial_windows(config));
  return config;
}

}  // namespace quipu
