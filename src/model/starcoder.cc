// StarCoder 1 (GPTBigCode): GPT-2 with multi-query attention, one KV head for all query heads.
// SOURCE: Li et al. 2023, StarCoder; Shazeer 2019, multi-query attention.
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_starcoder_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "starcoder"));
  config.norm = NormKind::kLayer;
  config.positions = PositionKind::kLearned;
  config.activation = Activation::kGeluTanh;
  config.gated_feed_forward = false;
  return config;
}

}  // namespace quipu
