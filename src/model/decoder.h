// DecoderModel: the forward pass of every decoder-only transformer quipu runs.
#pragma once

#include <memory>
#include <vector>

#include "model/decoder_weights.h"
#include "model/model.h"

namespace quipu {

class DecoderModel : public Model {
 public:
  static Result<std::unique_ptr<DecoderModel>> create(Backend& backend, ModelConfig config,
                                                      DecoderWeights weights, int batch_tokens_max);

  const ModelConfig& config() const override { return config_; }
  int batch_tokens_max() const override { return batch_tokens_max_; }
  size_t weight_bytes() const override { return weights_.bytes(); }
  size_t activation_bytes() const override;
  std::span<const float> forward(const ForwardBatch& batch, const KvCacheView& kv) override;

 private:
  // Activations, all f32 and sized for batch_tokens_max tokens at creation.
  struct Activations {
    std::unique_ptr<DeviceBuffer> hidden;      // [T, embedding_length]: the residual stream
    std::unique_ptr<DeviceBuffer> normed;      // [T, embedding_length]
    std::unique_ptr<DeviceBuffer> qkv;         // [T, query_width + key_width + value_width]
    std::unique_ptr<DeviceBuffer> attention;   // [T, head_count * value_length]
    std::unique_ptr<DeviceBuffer> inner;       // [T, feed_forward_length]; twice that with gate_up
    std::unique_ptr<DeviceBuffer> rope_table;  // [T, rope dims / 2, 2]
    std::unique_ptr<DeviceBuffer> local_rope_table;  // as rope_table, when config.local_rope
    // The same for the sinks of one group: queries turned as if the sinks came right before the
    // window. Made when a cache first has sinks.
    std::unique_ptr<DeviceBuffer> sink_query;       // [T, query_width]
    std::unique_ptr<DeviceBuffer> sink_rope_table;  // [T, rope dims / 2, 2]
    std::unique_ptr<DeviceBuffer> logits;  // [R, vocab_size]; grows with the most rows asked for
  };

  DecoderModel(Backend& backend, ModelConfig config, DecoderWeights weights, int batch_tokens_max);

  Status allocate_activations();
  void embed_tokens(const ForwardBatch& batch);
  void attention_block(const ForwardBatch& batch, const KvCacheView& kv, int layer);
  void project_query_key_value(size_t tokens, const DecoderLayer& layer);
  void normalise_and_rotate(size_t tokens, int layer, const KvLifetime& lifetime);
  void fill_rope_tables(const ForwardBatch& batch, const KvCacheView& kv);
  void feed_forward_block(size_t tokens, int layer);
  void add_to_residual(const Linear& linear, const Norm& post_norm, const float* x, size_t x_stride,
                       size_t tokens);

  void apply_norm(const Norm& norm, const float* x, float* y, size_t tokens);

  Backend& backend_;
  ModelConfig config_;
  DecoderWeights weights_;
  int batch_tokens_max_;
  Activations activations_;
  std::vector<int32_t> sink_positions_;  // SHAPE: [T]
};

}  // namespace quipu
