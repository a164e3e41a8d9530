// The tensors of a decoder-only transformer, bound under GGUF's names.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/status.h"
#include "model/config.h"
#include "model/rope.h"
#include "model/weight_loader.h"

namespace quipu {

// A linear layer with its optional bias.
struct Linear {
  std::unique_ptr<LinearWeight> weight;
  std::unique_ptr<DeviceBuffer> bias;  // SHAPE: [out_features] or null
};

// A norm's gain and optional shift.
struct Norm {
  std::unique_ptr<DeviceBuffer> weight;  // SHAPE: [dim]
  std::unique_ptr<DeviceBuffer> bias;    // SHAPE: [dim] or null
};

// "NAME.weight" with "NAME.bias" where the file has one. ERRORS: as WeightLoader.
Result<Linear> bind_linear(WeightLoader& loader, const std::string& name, int64_t out_features,
                           int64_t in_features);
Result<Norm> bind_norm(WeightLoader& loader, const std::string& name, int64_t dim);

struct DecoderLayer {
  Norm attention_norm;
  // Either one fused product whose rows are q | k | v, or three.
  Linear query_key_value;
  Linear query, key, value;
  Norm query_norm, key_norm;  // SHAPE: [key_length], when config.query_key_norm
  Linear attention_output;
  Norm post_attention_norm;  // when config.post_norms
  Norm feed_forward_norm;
  // When config.gated_feed_forward, either one product whose rows are gate | up, or two; otherwise
  // up alone.
  Linear gate_up;
  Linear gate, up;
  Linear down;
  Norm post_feed_forward_norm;  // when config.post_norms

  bool has_fused_attention() const { return query_key_value.weight != nullptr; }
  bool has_fused_gate() const { return gate_up.weight != nullptr; }
};

struct DecoderWeights {
  std::vector<TensorData> storage;  // embedding rows that were converted on the way in
  std::unique_ptr<EmbeddingTable> token_embedding;
  std::unique_ptr<EmbeddingTable> position_embedding;  // learned positions only
  std::vector<DecoderLayer> layers;
  Norm output_norm;
  Linear output;  // the head; built from the embedding when the file ties them
  RopeFrequencies rope;
  RopeFrequencies local_rope;  // when config.local_rope

  size_t bytes() const;  // UNITS: bytes of all products' weights
};

// Fills config.vocab_size from the embedding's rows. ERRORS: as load_model().
Result<DecoderWeights> bind_decoder_weights(const ModelFile& file, WeightLoader& loader,
                                            ModelConfig& config);

}  // namespace quipu
