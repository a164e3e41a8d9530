// The tensors of an encoder-decoder transformer, bound under GGUF's names for t5.
#pragma once

#include <memory>
#include <vector>

#include "model/decoder_weights.h"
#include "model/relative_bias.h"

namespace quipu {

struct AttentionWeights {
  Norm norm;
  Linear query, key, value, output;
};

struct FeedForwardWeights {
  Norm norm;
  Linear gate;  // when config.gated_feed_forward
  Linear up, down;
};

struct EncoderStackLayer {
  AttentionWeights attention;
  FeedForwardWeights feed_forward;
};

struct DecoderStackLayer {
  AttentionWeights attention;
  AttentionWeights cross;  // queries from the decoder, keys and values from the encoded input
  FeedForwardWeights feed_forward;
};

struct EncoderDecoderWeights {
  std::vector<TensorData> storage;  // embedding rows that were converted on the way in
  std::vector<float> sinusoids;     // SHAPE: [context_length, embedding_length], or empty
  std::unique_ptr<EmbeddingTable> token_embedding;     // the decoder's
  std::unique_ptr<EmbeddingTable> input_embedding;     // null: the decoder's
  std::unique_ptr<EmbeddingTable> position_embedding;  // null: none
  RelativeBias encoder_bias, decoder_bias;             // empty: none
  std::vector<EncoderStackLayer> encoder;
  std::vector<DecoderStackLayer> decoder;
  Norm encoder_norm, decoder_norm;  // without weights when norms stand after each part
  Linear output;

  // UNITS: bytes of the weights that a decode step reads.
  size_t decode_bytes() const;
};

// Fills the vocabulary sizes of `config` and, where tensors tell, its feed-forward.
// REQUIRES: config.encoder_decoder. ERRORS: as load_model().
Result<EncoderDecoderWeights> bind_encoder_decoder_weights(const ModelFile& file, Backend& backend,
                                                           WeightLoader& loader,
                                                           ModelConfig& config);

}  // namespace quipu
