#include "model/decoder_weights.h"

#include <cmath>

namespace quipu {

Result<Linear> bind_linear(WeightLoader& loader, const std::string& name, int64_t out_features,
                           int64_t in_features) {
  Linear linear;
  QUIPU_ASSIGN_OR_RETURN(linear.weight, loader.linear(name + ".weight", out_features, in_features));
  QUIPU_ASSIGN_OR_RETURN(linear.bias, loader.optional_vector(name + ".bias", out_features));
  return linear;
}

Result<Norm> bind_norm(WeightLoader& loader, const std::string& name, int64_t dim) {
  Norm norm;
  QUIPU_ASSIGN_OR_RETURN(norm.weight, loader.vector(name + ".weight", dim));
  QUIPU_ASSIGN_OR_RETURN(norm.bias, loader.optional_vector(name + ".bias", dim));
  return norm;
}

namespace {

constexpr const char* kLongFactors = "rope_factors_long.weight";
constexpr const char* kShortFactors = "rope_factors_short.weight";

Result<DecoderLayer> bind_layer(WeightLoader& loader, const ModelConfig& config, int index) {
  const std::string prefix = fmt::format("blk.{}.", index);
  const int64_t width = config.embedding_length;
  DecoderLayer layer;
  QUIPU_ASSIGN_OR_RETURN(layer.attention_norm, bind_norm(loader, prefix + "attn_norm", width));
  if (loader.has(prefix + "attn_qkv.weight")) {
    const int64_t fused = config.query_width() + config.key_width() + config.value_width();
    QUIPU_ASSIGN_OR_RETURN(layer.query_key_value,
                           bind_linear(loader, prefix + "attn_qkv", fused, width));
  } else {
    QUIPU_ASSIGN_OR_RETURN(layer.query,
                           bind_linear(loader, prefix + "attn_q", config.query_width(), width));
    QUIPU_ASSIGN_OR_RETURN(layer.key,
                           bind_linear(loader, prefix + "attn_k", config.key_width(), width));
    QUIPU_ASSIGN_OR_RETURN(layer.value,
                           bind_linear(loader, prefix + "attn_v", config.value_width(), width));
  }
  if (config.query_key_norm) {
    QUIPU_ASSIGN_OR_RETURN(layer.query_norm,
                           bind_norm(loader, prefix + "attn_q_norm", config.key_length));
    QUIPU_ASSIGN_OR_RETURN(layer.key_norm,
                           bind_norm(loader, prefix + "attn_k_norm", config.key_length));
  }
  const int64_t attention_width = int64_t{config.head_count} * config.value_length;
  QUIPU_ASSIGN_OR_RETURN(layer.attention_output,
                         bind_linear(loader, prefix + "attn_output", width, attention_width));
  QUIPU_ASSIGN_OR_RETURN(layer.feed_forward_norm, bind_norm(loader, prefix + "ffn_norm", width));
  const int64_t inner = config.feed_forward_length;
  if (config.fused_gate_up) {
    QUIPU_ASSIGN_OR_RETURN(layer.gate_up, bind_linear(loader, prefix + "ffn_up", 2 * inner, width));
  } else {
    if (config.gated_feed_forward) {
      QUIPU_ASSIGN_OR_RETURN(layer.gate, bind_linear(loader, prefix + "ffn_gate", inner, width));
    }
    QUIPU_ASSIGN_OR_RETURN(layer.up, bind_linear(loader, prefix + "ffn_up", inner, width));
  }
  QUIPU_ASSIGN_OR_RETURN(layer.down, bind_linear(loader, prefix + "ffn_down", width, inner));
  if (config.post_norms) {
    QUIPU_ASSIGN_OR_RETURN(layer.post_attention_norm,
                           bind_norm(loader, prefix + "post_attention_norm", width));
    QUIPU_ASSIGN_OR_RETURN(layer.post_feed_forward_norm,
                           bind_norm(loader, prefix + "post_ffw_norm", width));
  }
  return layer;
}

// Divisors of the rotary frequencies. ERRORS: as WeightLoader::values; kCorruptData for one that is
// not positive.
Result<std::vector<float>> rope_factors(const ModelFile& file, WeightLoader& loader,
                                        const std::string& name, int64_t count) {
  QUIPU_ASSIGN_OR_RETURN(std::vector<float> factors, loader.values(name, count));
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] > 0 && std::isfinite(factors[i])) continue;
    return make_error(ErrorCode::kCorruptData,
                      "{}: tensor '{}' has {} at {}; expected positive numbers",
                      file.path().string(), name, factors[i], i);
  }
  return factors;
}

Result<RopeFrequencies> bind_rope(const ModelFile& file, WeightLoader& loader,
                                  const ModelConfig& config) {
  if (config.key_length % 2 != 0) {
    return make_error(ErrorCode::kCorruptData, "{}: rope needs an even head size; key_length is {}",
                      file.path().string(), config.key_length);
  }
  const int64_t pairs = config.rope.dims / 2;
  std::vector<float> factors;
  const bool long_rope = config.rope.scaling == RopeScaling::kLongRope ||
                         loader.has(kLongFactors) || loader.has(kShortFactors);
  if (long_rope) {
    QUIPU_ASSIGN_OR_RETURN(auto long_factors, rope_factors(file, loader, kLongFactors, pairs));
    QUIPU_ASSIGN_OR_RETURN(auto short_factors, rope_factors(file, loader, kShortFactors, pairs));
    factors = config.context_in_force > config.rope.original_context ? std::move(long_factors)
                                                                     : std::move(short_factors);
  } else if (loader.has("rope_freqs.weight")) {
    QUIPU_ASSIGN_OR_RETURN(factors, rope_factors(file, loader, "rope_freqs.weight", pairs));
  }
  return make_rope_frequencies(config.rope, factors);
}

}  // namespace

size_t DecoderWeights::bytes() const {
  size_t total = output.weight->bytes();
  for (const DecoderLayer& layer : layers) {
    for (const Linear* linear :
         {&layer.query_key_value, &layer.query, &layer.key, &layer.value, &layer.attention_output,
          &layer.gate_up, &layer.gate, &layer.up, &layer.down}) {
      if (linear->weight != nullptr) total += linear->weight->bytes();
    }
  }
  return total;
}

Result<DecoderWeights> bind_decoder_weights(const ModelFile& file, WeightLoader& loader,
                                            ModelConfig& config) {
  const int64_t width = config.embedding_length;
  const TensorInfo* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return make_error(ErrorCode::kNotFound,
                      "{}: tensor 'token_embd.weight' of two dimensions is missing",
                      file.path().string());
  }
  config.vocab_size = embedding->shape[0];

  DecoderWeights weights;
  weights.storage.reserve(2);  // tables point into it
  QUIPU_ASSIGN_OR_RETURN(
      weights.token_embedding,
      loader.embedding("token_embd.weight", config.vocab_size, width, weights.storage));
  if (config.positions == PositionKind::kLearned) {
    QUIPU_ASSIGN_OR_RETURN(
        weights.position_embedding,
        loader.embedding("position_embd.weight", config.context_length, width, weights.storage));
  }
  if (config.positions == PositionKind::kRope) {
    QUIPU_ASSIGN_OR_RETURN(weights.rope, bind_rope(file, loader, config));
    if (config.local_rope) weights.local_rope = make_rope_frequencies(*config.local_rope, {});
  }
  for (int index = 0; index < config.block_count; ++index) {
    QUIPU_ASSIGN_OR_RETURN(DecoderLayer layer, bind_layer(loader, config, index));
    weights.layers.push_back(std::move(layer));
  }
  QUIPU_ASSIGN_OR_RETURN(weights.output_norm, bind_norm(loader, "output_norm", width));
  const std::string head = loader.has("output.weight") ? "output" : "token_embd";
  QUIPU_ASSIGN_OR_RETURN(weights.output, bind_linear(loader, head, config.vocab_size, width));
  return weights;
}

}  // namespace quipu
