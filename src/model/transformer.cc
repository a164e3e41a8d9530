// The original Transformer: encoder and decoder with LayerNorm, biases, and sinusoidal positions,
// as Marian, OpenNMT and their relatives train it for translation. GGUF has no name for it; this
// file defines one, `transformer`. Keys beyond those that every architecture has:
//
//   transformer.decoder_block_count          layers of the decoder; default: as many as the encoder
//   transformer.decoder_start_token_id       what the decoder begins with
//   transformer.norm_placement               "before" (default) or "after" each part
//   transformer.activation                   "relu" (default), "gelu", "gelu_tanh" or "silu"
//   transformer.embedding_scale              on token embeddings; default 1
//   transformer.position.layout              "halves" (default) or "interleaved"
//   transformer.position.frequencies         "inclusive" (default) or "exclusive"
//   transformer.position.first               number of the first token: 0 (default) or 1
//
// Tensors have the names of GGUF's t5 ("enc.blk.0.attn_q.weight", "dec.blk.0.cross_attn_q.weight",
// "dec.output_norm.weight", ...), with biases. "enc.token_embd.weight" is the encoder's own
// vocabulary, where it is not the decoder's "token_embd.weight"; the head is "output.weight" or the
// decoder's embedding, with "output.bias" or none. Norms after each part need no output norm.
// SOURCE: Vaswani et al. 2017.
#include <array>
#include <cmath>
#include <utility>

#include "model/architecture.h"

namespace quipu {

namespace {

constexpr int64_t kContextMax = 1 << 17;  // a table holds a row for every position

// One of a few words. The first is the default.
template <typename T, size_t N>
Result<T> read_word(const Metadata& metadata, const std::string& key,
                    const std::array<std::pair<std::string_view, T>, N>& words) {
  if (!metadata.contains(key)) return words[0].second;
  QUIPU_ASSIGN_OR_RETURN(const std::string found, metadata.require_string(key));
  std::string known;
  for (const auto& [word, value] : words) {
    if (found == word) return value;
    known += (known.empty() ? "" : ", ") + std::string(word);
  }
  return make_error(ErrorCode::kUnsupported, "metadata key '{}' is '{}'; quipu knows {}", key,
                    found, known);
}

Result<SinusoidConfig> read_sinusoid(const Metadata& metadata) {
  using Layout = SinusoidConfig::Layout;
  using Frequencies = SinusoidConfig::Frequencies;
  SinusoidConfig sinusoid;
  QUIPU_ASSIGN_OR_RETURN(sinusoid.layout,
                         (read_word<Layout, 2>(metadata, "transformer.position.layout",
                                               {{{"halves", Layout::kHalves},
                                                 {"interleaved", Layout::kInterleaved}}})));
  QUIPU_ASSIGN_OR_RETURN(sinusoid.frequencies,
                         (read_word<Frequencies, 2>(metadata, "transformer.position.frequencies",
                                                    {{{"inclusive", Frequencies::kInclusive},
                                                      {"exclusive", Frequencies::kExclusive}}})));
  QUIPU_ASSIGN_OR_RETURN(const int64_t first,
                         read_bounded_int(metadata, "transformer.position.first", 0, 0, 1));
  sinusoid.first_position = static_cast<int>(first);
  return sinusoid;
}

}  // namespace

Result<ModelConfig> read_transformer_config(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(ModelConfig config, read_common_config(metadata, "transformer"));
  if (config.embedding_length < 4 || config.embedding_length % 2 != 0) {
    return make_error(ErrorCode::kCorruptData,
                      "metadata key 'transformer.embedding_length' is {}; sinusoidal positions "
                      "need an even number of at least 4",
                      config.embedding_length);
  }
  if (config.context_length > kContextMax) {
    return make_error(ErrorCode::kUnsupported,
                      "metadata key 'transformer.context_length' is {}; quipu takes up to {}",
                      config.context_length, kContextMax);
  }
  config.norm = NormKind::kLayer;
  config.positions = PositionKind::kNone;  // sinusoids are part of the encoder-decoder
  config.gated_feed_forward = false;
  QUIPU_ASSIGN_OR_RETURN(config.activation,
                         (read_word<Activation, 4>(metadata, "transformer.activation",
                                                   {{{"relu", Activation::kRelu},
                                                     {"gelu", Activation::kGeluErf},
                                                     {"gelu_tanh", Activation::kGeluTanh},
                                                     {"silu", Activation::kSilu}}})));
  QUIPU_ASSIGN_OR_RETURN(EncoderDecoderConfig both, read_encoder_decoder_config(metadata, config));
  QUIPU_ASSIGN_OR_RETURN(both.norm_placement,
                         (read_word<NormPlacement, 2>(metadata, "transformer.norm_placement",
                                                      {{{"before", NormPlacement::kBefore},
                                                        {"after", NormPlacement::kAfter}}})));
  const double scale = metadata.get_double("transformer.embedding_scale").value_or(1);
  if (!std::isfinite(scale) || std::abs(scale) > 1e6) {
    return make_error(ErrorCode::kCorruptData,
                      "metadata key 'transformer.embedding_scale' is {}; expected -1e6 to 1e6",
                      scale);
  }
  both.embedding_scale = static_cast<float>(scale);
  QUIPU_ASSIGN_OR_RETURN(both.sinusoid, read_sinusoid(metadata));
  config.encoder_decoder = both;
  return config;
}

}  // namespace quipu
