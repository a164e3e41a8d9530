// Qwen 3, dense: no biases, an RMSNorm on every head of q and k before rope, rope in halves, and a
// head dimension of its own (key_length need not be embedding_length / head_count).
// SOURCE: Yang et al. 2025, Qwen3 technical report.
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_qwen3_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "qwen3"));
  config.query_key_norm = true;
  return config;
}

}  // namespace quipu
