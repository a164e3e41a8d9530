// EncoderDecoderModel: the forward passes of T5 and of the original Transformer.
//
// The encoder runs once for each input and leaves the keys and values that every decoder layer's
// cross-attention needs in blocks of the cross pool; they never grow. The decoder then runs as any
// decoder does, over its own tokens in the ordinary pool.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "model/encoder_decoder_weights.h"
#include "model/model.h"

namespace quipu {

class EncoderDecoderModel : public Model {
 public:
  static Result<std::unique_ptr<EncoderDecoderModel>> create(Backend& backend, ModelConfig config,
                                                             EncoderDecoderWeights weights,
                                                             int batch_tokens_max);

  const ModelConfig& config() const override { return config_; }
  int batch_tokens_max() const override { return batch_tokens_max_; }
  size_t weight_bytes() const override { return weights_.decode_bytes(); }
  size_t activation_bytes() const override;

  Status reserve_input(int64_t tokens_max) override;
  void encode(const EncoderInput& input, const PagedKvView& cross) override;
  std::span<const float> forward(const ForwardBatch& batch, const KvCacheView& kv) override;

 private:
  // Activations of one pass over at most batch_tokens_max tokens, all f32. T: those tokens.
  struct Activations {
    std::unique_ptr<DeviceBuffer> hidden;     // [T, embedding_length]: the decoder's residual
    std::unique_ptr<DeviceBuffer> normed;     // [T, embedding_length]
    std::unique_ptr<DeviceBuffer> qkv;        // [T, query_width + key_width + value_width]
    std::unique_ptr<DeviceBuffer> attention;  // [T, head_count * value_length]
    std::unique_ptr<DeviceBuffer> up;         // [T, feed_forward_length]
    std::unique_ptr<DeviceBuffer> logits;     // [R, vocab_size]; grows with the most rows asked for
  };

  // What the encoder needs for a whole input of up to `tokens_max` tokens. N: those tokens.
  struct InputRoom {
    int64_t tokens_max = 0;
    std::unique_ptr<DeviceBuffer> hidden;  // [N, embedding_length]: the encoder's residual
    // Keys and values of the layer at hand, f32, as one sequence of KV blocks in order.
    std::unique_ptr<DeviceBuffer> scratch;
    KvLayerView layer;
    std::vector<int32_t> block_table;  // 0, 1, 2, ...
    std::vector<int64_t> slots;        // [N]: 0, 1, 2, ...
    std::vector<int32_t> positions;    // [N]: 0, 1, 2, ...
    std::vector<int64_t> cross_slots;  // [N]: of the input at hand, in the cross pool
    // Of the input at hand; here, because operations read them until synchronise().
    int32_t key_count = 0;
    std::array<int32_t, 2> whole_chunk{}, last_chunk{};  // query_start
  };

  EncoderDecoderModel(Backend& backend, ModelConfig config, EncoderDecoderWeights weights,
                      int batch_tokens_max);
  Status allocate_activations();

  void embed(const EmbeddingTable& table, std::span<const int32_t> ids,
             std::span<const int32_t> positions, float* hidden);
  const int32_t* chunk_start(size_t count) const;
  void encoder_layer(const EncoderStackLayer& layer, size_t tokens);
  void write_cross(const EncoderInput& input, const PagedKvView& cross);
  void self_attention(const ForwardBatch& batch, const KvCacheView& kv, int layer);
  void cross_attention(const ForwardBatch& batch, int layer);
  void feed_forward(const FeedForwardWeights& weights, float* hidden, size_t tokens);

  const float* begin_part(const Norm& norm, const float* hidden, size_t tokens);
  void end_part(const Norm& norm, float* hidden, size_t tokens);
  void apply_norm(const Norm& norm, const float* x, float* y, size_t tokens);
  void project(const float* x, size_t tokens, std::initializer_list<LinearOutput> outputs);
  void attend(AttentionArgs args, const AttentionWeights& weights, float* hidden);
  template <typename Work>
  void for_each_chunk(size_t tokens, const Work& work) const;

  PagedKvView scratch_view() const;
  size_t width() const { return static_cast<size_t>(config_.embedding_length); }
  size_t qkv_width() const;
  float* query() { return activations_.qkv->floats(); }
  float* key() { return query() + config_.query_width(); }
  float* value() { return key() + config_.key_width(); }

  Backend& backend_;
  ModelConfig config_;
  EncoderDecoderWeights weights_;
  int batch_tokens_max_;
  Activations activations_;
  InputRoom input_;
};

}  // namespace quipu
