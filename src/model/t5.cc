// T5 and Flan-T5: an encoder and a decoder with RMSNorm before each part, no biases, no scale on
// attention scores, and a relative position bias that the first layer's table gives to all.
// Version 1.0 has a plain feed-forward with ReLU, 1.1 one gated by GELU; files tell by the tensors.
// SOURCE: Raffel et al. 2020; Shazeer 2020 (GLU variants).
#include "model/architecture.h"

namespace quipu {

Result<ModelConfig> read_t5_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "t5"));
  config.norm = NormKind::kRms;
  config.positions = PositionKind::kNone;
  config.attention_scale = 1.0f;
  QUIPU_ASSIGN_OR_RETURN(EncoderDecoderConfig both, read_encoder_decoder_config(metadata, config));
  QUIPU_ASSIGN_OR_RETURN(
      const int64_t buckets,
      read_bounded_int(metadata, "t5.attention.relative_buckets_count", 32, 4, int64_t{1} << 16));
  QUIPU_ASSIGN_OR_RETURN(
      const int64_t distance,
      read_bounded_int(metadata, "t5.attention.relative_max_distance", 128, 2, int64_t{1} << 24));
  if (buckets % 4 != 0 || distance <= buckets / 2) {
    return make_error(ErrorCode::kCorruptData,
                      "{} relative position buckets up to distance {}; expected a multiple of 4 "
                      "and a distance of more than half of it",
                      buckets, distance);
  }
  both.relative_buckets = static_cast<int>(buckets);
  both.relative_max_distance = static_cast<int>(distance);
  config.encoder_decoder = both;
  return config;
}

}  // namespace quipu
