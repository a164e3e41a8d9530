#include "model/encoder_decoder_weights.h"

#include <cmath>

#include "model/sinusoid.h"

namespace quipu {

namespace {

// `name`: "enc.blk.0.attn", "dec.blk.0.cross_attn".
Result<AttentionWeights> bind_attention(WeightLoader& loader, const ModelConfig& config,
                                        const std::string& name) {
  const int64_t width = config.embedding_length;
  const int64_t attention_width = int64_t{config.head_count} * config.value_length;
  AttentionWeights weights;
  QUIPU_ASSIGN_OR_RETURN(weights.norm, bind_norm(loader, name + "_norm", width));
  QUIPU_ASSIGN_OR_RETURN(weights.query,
                         bind_linear(loader, name + "_q", config.query_width(), width));
  QUIPU_ASSIGN_OR_RETURN(weights.key, bind_linear(loader, name + "_k", config.key_width(), width));
  QUIPU_ASSIGN_OR_RETURN(weights.value,
                         bind_linear(loader, name + "_v", config.value_width(), width));
  QUIPU_ASSIGN_OR_RETURN(weights.output, bind_linear(loader, name + "_o", width, attention_width));
  return weights;
}

// `block`: "enc.blk.0.".
Result<FeedForwardWeights> bind_feed_forward(WeightLoader& loader, const ModelConfig& config,
                                             const std::string& block) {
  const int64_t width = config.embedding_length, inner = config.feed_forward_length;
  FeedForwardWeights weights;
  QUIPU_ASSIGN_OR_RETURN(weights.norm, bind_norm(loader, block + "ffn_norm", width));
  if (config.gated_feed_forward) {
    QUIPU_ASSIGN_OR_RETURN(weights.gate, bind_linear(loader, block + "ffn_gate", inner, width));
  }
  QUIPU_ASSIGN_OR_RETURN(weights.up, bind_linear(loader, block + "ffn_up", inner, width));
  QUIPU_ASSIGN_OR_RETURN(weights.down, bind_linear(loader, block + "ffn_down", width, inner));
  return weights;
}

// The first layer's table, which all layers of its stack share.
Result<RelativeBias> bind_relative_bias(Backend& backend, WeightLoader& loader,
                                        const ModelConfig& config, const std::string& stack,
                                        BiasDirection direction) {
  const EncoderDecoderConfig& both = *config.encoder_decoder;
  QUIPU_ASSIGN_OR_RETURN(
      std::vector<float> values,
      loader.matrix(stack + ".blk.0.attn_rel_b.weight", both.relative_buckets, config.head_count));
  return RelativeBias(backend, direction, std::move(values), config.head_count,
                      both.relative_max_distance);
}

Status bind_embeddings(const ModelFile& file, Backend& backend, WeightLoader& loader,
                       ModelConfig& config, EncoderDecoderWeights& weights) {
  const int64_t width = config.embedding_length;
  weights.storage.reserve(2);  // tables point into it
  const auto bind = [&](const std::string& name, int64_t& entries,
                        std::unique_ptr<EmbeddingTable>& table) -> Status {
    const TensorInfo* info = file.find(name);
    if (info == nullptr || info->shape.size() != 2) {
      return make_error(ErrorCode::kNotFound, "{}: tensor '{}' of two dimensions is missing",
                        file.path().string(), name);
    }
    entries = info->shape[0];
    QUIPU_ASSIGN_OR_RETURN(table, loader.embedding(name, entries, width, weights.storage));
    return Status::ok_status();
  };
  EncoderDecoderConfig& both = *config.encoder_decoder;
  QUIPU_RETURN_IF_ERROR(bind("token_embd.weight", config.vocab_size, weights.token_embedding));
  both.input_vocab_size = config.vocab_size;
  if (loader.has("enc.token_embd.weight")) {
    QUIPU_RETURN_IF_ERROR(
        bind("enc.token_embd.weight", both.input_vocab_size, weights.input_embedding));
  }
  if (both.decoder_start_token >= config.vocab_size) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: metadata key '{}.decoder_start_token_id' is {}, but there are {} tokens",
                      file.path().string(), config.architecture, both.decoder_start_token,
                      config.vocab_size);
  }
  if (!both.sinusoid.has_value()) return Status::ok_status();
  weights.sinusoids =
      make_sinusoid_table(*both.sinusoid, config.context_length, config.embedding_length);
  QUIPU_ASSIGN_OR_RETURN(weights.position_embedding,
                         backend.load_embedding({DType::kF32,
                                                 {config.context_length, width},
                                                 std::as_bytes(std::span(weights.sinusoids))}));
  return Status::ok_status();
}

// A head that the embedding serves sees inputs scaled by 1 / sqrt(width) in T5; the output norm's
// weights take that in. SOURCE: Raffel et al. 2020's code; transformers' tie_word_embeddings.
Status scale_tied_output(Backend& backend, WeightLoader& loader, const ModelConfig& config,
                         EncoderDecoderWeights& weights) {
  QUIPU_ASSIGN_OR_RETURN(std::vector<float> values,
                         loader.values("dec.output_norm.weight", config.embedding_length));
  const float scale = 1.0f / std::sqrt(static_cast<float>(config.embedding_length));
  for (float& value : values) value *= scale;
  QUIPU_ASSIGN_OR_RETURN(
      weights.decoder_norm.weight,
      backend.load_vector(
          {DType::kF32, {config.embedding_length}, std::as_bytes(std::span(values))}));
  return Status::ok_status();
}

Status bind_output(Backend& backend, WeightLoader& loader, const ModelConfig& config,
                   EncoderDecoderWeights& weights) {
  const int64_t width = config.embedding_length;
  const bool tied = !loader.has("output.weight");
  if (config.encoder_decoder->norm_placement == NormPlacement::kBefore) {
    QUIPU_ASSIGN_OR_RETURN(weights.encoder_norm, bind_norm(loader, "enc.output_norm", width));
    QUIPU_ASSIGN_OR_RETURN(weights.decoder_norm, bind_norm(loader, "dec.output_norm", width));
    if (tied && config.architecture == "t5")
      QUIPU_RETURN_IF_ERROR(scale_tied_output(backend, loader, config, weights));
  }
  QUIPU_ASSIGN_OR_RETURN(weights.output, bind_linear(loader, tied ? "token_embd" : "output",
                                                     config.vocab_size, width));
  if (tied) {
    QUIPU_ASSIGN_OR_RETURN(weights.output.bias,
                           loader.optional_vector("output.bias", config.vocab_size));
  }
  return Status::ok_status();
}

size_t bytes_of(std::initializer_list<const Linear*> linears) {
  size_t total = 0;
  for (const Linear* linear : linears) {
    if (linear->weight != nullptr) total += linear->weight->bytes();
  }
  return total;
}

}  // namespace

size_t EncoderDecoderWeights::decode_bytes() const {
  size_t total = bytes_of({&output});
  for (const DecoderStackLayer& layer : decoder) {
    const AttentionWeights& own = layer.attention;
    const FeedForwardWeights& ffn = layer.feed_forward;
    total += bytes_of({&own.query, &own.key, &own.value, &own.output, &layer.cross.query,
                       &layer.cross.output, &ffn.gate, &ffn.up, &ffn.down});
  }
  return total;
}

Result<EncoderDecoderWeights> bind_encoder_decoder_weights(const ModelFile& file, Backend& backend,
                                                           WeightLoader& loader,
                                                           ModelConfig& config) {
  EncoderDecoderWeights weights;
  QUIPU_RETURN_IF_ERROR(bind_embeddings(file, backend, loader, config, weights));
  if (config.architecture == "t5") {
    config.gated_feed_forward = loader.has("enc.blk.0.ffn_gate.weight");
    config.activation = config.gated_feed_forward ? Activation::kGeluTanh : Activation::kRelu;
  }
  const EncoderDecoderConfig& both = *config.encoder_decoder;
  if (both.relative_buckets > 0) {
    QUIPU_ASSIGN_OR_RETURN(weights.encoder_bias, bind_relative_bias(backend, loader, config, "enc",
                                                                    BiasDirection::kBoth));
    QUIPU_ASSIGN_OR_RETURN(weights.decoder_bias, bind_relative_bias(backend, loader, config, "dec",
                                                                    BiasDirection::kBackward));
  }
  for (int index = 0; index < both.encoder_block_count; ++index) {
    const std::string block = fmt::format("enc.blk.{}.", index);
    EncoderStackLayer layer;
    QUIPU_ASSIGN_OR_RETURN(layer.attention, bind_attention(loader, config, block + "attn"));
    QUIPU_ASSIGN_OR_RETURN(layer.feed_forward, bind_feed_forward(loader, config, block));
    weights.encoder.push_back(std::move(layer));
  }
  for (int index = 0; index < config.block_count; ++index) {
    const std::string block = fmt::format("dec.blk.{}.", index);
    DecoderStackLayer layer;
    QUIPU_ASSIGN_OR_RETURN(layer.attention, bind_attention(loader, config, block + "attn"));
    QUIPU_ASSIGN_OR_RETURN(layer.cross, bind_attention(loader, config, block + "cross_attn"));
    QUIPU_ASSIGN_OR_RETURN(layer.feed_forward, bind_feed_forward(loader, config, block));
    weights.decoder.push_back(std::move(layer));
  }
  QUIPU_RETURN_IF_ERROR(bind_output(backend, loader, config, weights));
  return weights;
}

}  // namespace quipu
