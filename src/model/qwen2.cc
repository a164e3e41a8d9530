// Qwen 1.5, 2 and 2.5: Llama with biases on q, k and v, and rope in halves.
// SOURCE: Yang et al. 2024, Qwen2 technical report.
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_qwen2_config(const Metadata& metadata) {
  return read_common_config(metadata, "qwen2");
}

}  // namespace quipu
