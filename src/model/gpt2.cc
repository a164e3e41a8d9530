// GPT-2: LayerNorm before each part, learned positions, multi-head attention with fused q|k|v,
// biases everywhere, GELU (tanh form) without a gate.
// SOURCE: Radford et al. 2019.
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_gpt2_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "gpt2"));
  config.norm = NormKind::kLayer;
  config.positions = PositionKind::kLearned;
  config.activation = Activation::kGeluTanh;
  config.gated_feed_forward = false;
  return config;
}

}  // namespace quipu
