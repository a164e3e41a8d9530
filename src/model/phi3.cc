// Phi-3 and Phi-4: Llama's parts with q, k and v in one matrix and gate and up in another; rope in
// halves, on a part of the head in Phi-4-mini; LongRoPE in the models of long context.
// SOURCE: Abdin et al. 2024, Phi-3 technical report; Ding et al. 2024, LongRoPE.
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_phi3_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "phi3"));
  config.fused_gate_up = true;
  if (const int64_t experts = metadata.get_int("phi3.expert_count").value_or(0); experts > 0) {
    return make_error(ErrorCode::kUnsupported,
                      "this phi3 model has {} experts; mixtures of experts are not supported yet",
                      experts);
  }
  return config;
}

}  // namespace quipu
