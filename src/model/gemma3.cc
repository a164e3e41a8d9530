// Gemma 3, text: Gemma 2 with norms of queries and keys in place of soft caps, windows in five of
// six layers, and two ropes: base 10,000 in windowed layers; base 1,000,000, where the file says so
// stretched linearly, in the others.
// SOURCE: Gemma Team 2025, Gemma 3 technical report.
#include "model/architecture.h"
#include "model/gemma.h"

namespace quipu {

namespace {

constexpr double kLocalBase = 10000;

}  // namespace

Result<ModelConfig> read_gemma3_config(const Metadata& metadata) {
  // Without the window every layer would see too much, and rotate with the wrong base.
  if (metadata.get_int("gemma3.attention.sliding_window").value_or(0) <= 0) {
    return make_error(
        ErrorCode::kCorruptData,
        "metadata key 'gemma3.attention.sliding_window' is {}; expected the window "
        "of the local layers in tokens; convert the model again",
        metadata.contains("gemma3.attention.sliding_window") ? "not a positive number" : "absent");
  }
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "gemma3", {.period = 6}));
  QUIPU_RETURN_IF_ERROR(apply_gemma_settings(metadata, "gemma3", 62, config));
  config.query_key_norm = true;
  if (config.key_length % 2 == 0) {
    config.local_rope = RopeConfig{.pairing = config.rope.pairing, .dims = config.rope.dims};
    QUIPU_ASSIGN_OR_RETURN(config.local_rope->theta,
                           read_positive(metadata, "gemma3.rope.freq_base_swa", kLocalBase));
  }
  // Optional, and absent from the published models.
  if (metadata.contains("gemma3.final_logit_softcapping")) {
    QUIPU_ASSIGN_OR_RETURN(const double cap,
                           read_positive(metadata, "gemma3.final_logit_softcapping", 0));
    config.output_softcap = static_cast<float>(cap);
  }
  return config;
}

}  // namespace quipu
