// Llama 1 to 3.3 and what shares its tensors: Mistral 7B, TinyLlama, SmolLM, Yi.
// SOURCE: Touvron et al. 2023 (LLaMA); Grattafiori et al. 2024 (Llama 3).
// RMSNorm before each part, grouped-query attention, SwiGLU, rope in GGUF's interleaved pairing
// (converters permute the rows of q and k), Llama 3's frequency factors as the tensor rope_freqs.
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_llama_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "llama"));
  config.rope.pairing = RopePairing::kInterleaved;
  if (const int64_t experts = metadata.get_int("llama.expert_count").value_or(0); experts > 0) {
    return make_error(ErrorCode::kUnsupported,
                      "this llama model has {} experts; mixtures of experts are not supported yet",
                      experts);
  }
  return config;
}

}  // namespace quipu
