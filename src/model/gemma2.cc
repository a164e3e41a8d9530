// Gemma 2: norms before and behind each part, GELU with a gate, embeddings scaled by sqrt(width),
// soft caps on attention scores and logits, a window in every other layer, tied embeddings.
// SOURCE: Gemma Team 2024, Gemma 2: improving open language models at a practical size.
#include <cmath>

#include "model/architecture.h"
#include "model/gemma.h"

namespace quipu {

Status apply_gemma_settings(const Metadata& metadata, const std::string& architecture,
                            int layers_of_27b, ModelConfig& config) {
  config.activation = Activation::kGeluTanh;
  config.post_norms = true;
  config.embedding_scale = std::sqrt(static_cast<float>(config.embedding_length));
  const double scalar = config.block_count == layers_of_27b
                            ? double{1} * config.embedding_length / config.head_count
                            : config.key_length;
  QUIPU_ASSIGN_OR_RETURN(
      const double scale,
      read_positive(metadata, architecture + ".attention.scale", 1 / std::sqrt(scalar)));
  config.attention_scale = static_cast<float>(scale);
  return Status::ok_status();
}

Result<ModelConfig> read_gemma2_config(const Metadata& metadata) {
  // Windows in layers 0, 2, 4, ... Files from before the keys existed mean these defaults.
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config,
                         read_common_config(metadata, "gemma2", {.period = 2, .window = 4096}));
  QUIPU_RETURN_IF_ERROR(apply_gemma_settings(metadata, "gemma2", 46, config));
  QUIPU_ASSIGN_OR_RETURN(const double attention_cap,
                         read_positive(metadata, "gemma2.attn_logit_softcapping", 50));
  QUIPU_ASSIGN_OR_RETURN(const double output_cap,
                         read_positive(metadata, "gemma2.final_logit_softcapping", 30));
  config.attention_softcap = static_cast<float>(attention_cap);
  config.output_softcap = static_cast<float>(output_cap);
  return config;
}

}  // namespace quipu
