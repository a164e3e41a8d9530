#include "model/decoder.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/units.h"
#include "model/output_head.h"

namespace quipu {

namespace {

size_t qkv_width(const ModelConfig& config) {
  return static_cast<size_t>(config.query_width() + config.key_width() + config.value_width());
}

const float* bias_of(const Linear& linear) { return linear.bias ? linear.bias->floats() : nullptr; }

}  // namespace

// The pass, top to bottom. SOURCE: Vaswani et al. 2017, in the pre-norm form of GPT-2 and Llama.
std::span<const float> DecoderModel::forward(const ForwardBatch& batch, const KvCacheView& kv) {
  const size_t tokens = batch.token_ids.size();
  QUIPU_CHECK(tokens > 0 && tokens <= static_cast<size_t>(batch_tokens_max_),
              "{} tokens in a pass of {}", tokens, batch_tokens_max_);
  QUIPU_CHECK(batch.positions.size() == tokens, "ragged batch");
  QUIPU_CHECK(batch.groups.size() == kv.groups.size() &&
                  kv.layers.size() == static_cast<size_t>(config_.block_count),
              "{} groups for {}, {} layers for {}", batch.groups.size(), kv.groups.size(),
              kv.layers.size(), config_.block_count);

  embed_tokens(batch);
  if (config_.positions == PositionKind::kRope) fill_rope_tables(batch, kv);
  for (int layer = 0; layer < config_.block_count; ++layer) {
    attention_block(batch, kv, layer);
    feed_forward_block(tokens, layer);
  }
  return compute_logits(backend_, config_, {weights_.output_norm, weights_.output},
                        batch.logit_rows, activations_.hidden->floats(),
                        activations_.normed->floats(), activations_.logits);
}

// Angles of the batch's positions, and of where a query stands when it looks at sinks: at most a
// window past them, as if nothing had been between. Keys keep the angles of their own positions.
// SOURCE: Xiao et al. 2023 (StreamingLLM), positions inside the cache; here the query moves.
void DecoderModel::fill_rope_tables(const ForwardBatch& batch, const KvCacheView& kv) {
  fill_rope_table(weights_.rope, batch.positions, config_.context_length,
                  activations_.rope_table->floats());
  if (config_.local_rope) {
    fill_rope_table(weights_.local_rope, batch.positions, config_.context_length,
                    activations_.local_rope_table->floats());
  }
  KvLifetime streaming;
  for (const KvGroupView& group : kv.groups) {
    if (group.lifetime.sinks == 0) continue;
    QUIPU_CHECK(streaming.sinks == 0, "two groups have sinks");
    streaming = group.lifetime;
  }
  if (streaming.sinks == 0) return;
  const auto rows_of = [&](std::unique_ptr<DeviceBuffer>& buffer, int columns) {
    if (buffer != nullptr) return;
    Result<std::unique_ptr<DeviceBuffer>> allocated = backend_.allocate(
        static_cast<size_t>(batch_tokens_max_) * static_cast<size_t>(columns) * sizeof(float));
    QUIPU_CHECK(allocated.ok(), "queries for sinks: {}", allocated.status().message());
    buffer = std::move(allocated).value();
  };
  rows_of(activations_.sink_query, config_.query_width());
  rows_of(activations_.sink_rope_table, config_.rope.dims);
  sink_positions_.clear();
  const int64_t farthest = int64_t{streaming.window} + streaming.sinks - 1;
  for (const int32_t position : batch.positions)
    sink_positions_.push_back(static_cast<int32_t>(std::min<int64_t>(position, farthest)));
  fill_rope_table(weights_.rope, sink_positions_, config_.context_length,
                  activations_.sink_rope_table->floats());
}

void DecoderModel::embed_tokens(const ForwardBatch& batch) {
  float* hidden = activations_.hidden->floats();
  backend_.embed({.table = weights_.token_embedding.get(),
                  .ids = batch.token_ids.data(),
                  .out = hidden,
                  .tokens = batch.token_ids.size(),
                  .scale = config_.embedding_scale});
  if (config_.positions == PositionKind::kLearned) {
    backend_.embed({.table = weights_.position_embedding.get(),
                    .ids = batch.positions.data(),
                    .out = hidden,
                    .tokens = batch.token_ids.size(),
                    .accumulate = true});
  }
}

void DecoderModel::attention_block(const ForwardBatch& batch, const KvCacheView& kv,
                                   int layer_index) {
  const DecoderLayer& layer = weights_.layers[static_cast<size_t>(layer_index)];
  const KvLayerPlace place = kv.layers[static_cast<size_t>(layer_index)];
  const KvGroupView& group = kv.groups[static_cast<size_t>(place.group)];
  const GroupBatch& blocks = batch.groups[static_cast<size_t>(place.group)];
  const int32_t* block_gaps = blocks.block_gaps.empty() ? nullptr : blocks.block_gaps.data();
  const size_t tokens = batch.token_ids.size();
  const size_t stride = qkv_width(config_);
  const size_t attention_width = static_cast<size_t>(config_.head_count) * config_.value_length;
  float* q = activations_.qkv->floats();
  float* k = q + config_.query_width();
  float* v = k + config_.key_width();

  apply_norm(layer.attention_norm, activations_.hidden->floats(), activations_.normed->floats(),
             tokens);
  project_query_key_value(tokens, layer);
  normalise_and_rotate(tokens, layer_index, group.lifetime);
  const bool turned = group.lifetime.sinks > 0 && config_.positions == PositionKind::kRope;
  backend_.kv_write({.k = k,
                     .v = v,
                     .k_stride = stride,
                     .v_stride = stride,
                     .slot_mapping = blocks.slot_mapping.data(),
                     .tokens = tokens,
                     .kv = group.kv,
                     .layer = place.index,
                     .sequences = batch.query_start.size() - 1,
                     .query_start = batch.query_start.data(),
                     .positions = batch.positions.data(),
                     .block_tables = blocks.block_tables.data(),
                     .block_table_stride = blocks.block_table_stride,
                     .block_gaps = block_gaps});
  backend_.attention({.q = q,
                      .out = activations_.attention->floats(),
                      .q_stride = stride,
                      .out_stride = attention_width,
                      .tokens = tokens,
                      .heads = static_cast<size_t>(config_.head_count),
                      .sequences = batch.query_start.size() - 1,
                      .query_start = batch.query_start.data(),
                      .positions = batch.positions.data(),
                      .block_tables = blocks.block_tables.data(),
                      .block_table_stride = blocks.block_table_stride,
                      .block_gaps = block_gaps,
                      .kv = group.kv,
                      .layer = place.index,
                      .scale = config_.attention_scale,
                      .window = group.lifetime.window,
                      .sinks = group.lifetime.sinks,
                      .q_sinks = turned ? activations_.sink_query->floats() : q,
                      .q_sinks_stride =
                          turned ? static_cast<size_t>(config_.query_width()) : stride,
                      .softcap = config_.attention_softcap});
  add_to_residual(layer.attention_output, layer.post_attention_norm,
                  activations_.attention->floats(), attention_width, tokens);
}

void DecoderModel::project_query_key_value(size_t tokens, const DecoderLayer& layer) {
  const size_t stride = qkv_width(config_);
  float* q = activations_.qkv->floats();
  const LinearArgs args = {.x = activations_.normed->floats(),
                           .x_stride = static_cast<size_t>(config_.embedding_length),
                           .tokens = tokens};
  if (layer.has_fused_attention()) {
    const std::array output = {LinearOutput{layer.query_key_value.weight.get(),
                                            bias_of(layer.query_key_value), q, stride}};
    LinearArgs fused = args;
    fused.outputs = output;
    backend_.linear(fused);
    return;
  }
  float* k = q + config_.query_width();
  float* v = k + config_.key_width();
  const std::array outputs = {
      LinearOutput{layer.query.weight.get(), bias_of(layer.query), q, stride},
      LinearOutput{layer.key.weight.get(), bias_of(layer.key), k, stride},
      LinearOutput{layer.value.weight.get(), bias_of(layer.value), v, stride}};
  LinearArgs separate = args;
  separate.outputs = outputs;
  backend_.linear(separate);
}

void DecoderModel::normalise_and_rotate(size_t tokens, int layer_index,
                                        const KvLifetime& lifetime) {
  const DecoderLayer& layer = weights_.layers[static_cast<size_t>(layer_index)];
  const size_t stride = qkv_width(config_);
  const size_t head_dim = static_cast<size_t>(config_.key_length);
  float* q = activations_.qkv->floats();
  float* k = q + config_.query_width();
  if (config_.query_key_norm) {
    NormArgs norm = {.kind = NormKind::kRms,
                     .x = q,
                     .y = q,
                     .weight = layer.query_norm.weight->floats(),
                     .tokens = tokens,
                     .groups = static_cast<size_t>(config_.head_count),
                     .dim = head_dim,
                     .x_stride = stride,
                     .y_stride = stride,
                     .epsilon = config_.norm_epsilon};
    backend_.norm(norm);
    norm.x = norm.y = k;
    norm.weight = layer.key_norm.weight->floats();
    norm.groups = static_cast<size_t>(config_.head_count_kv);
    backend_.norm(norm);
  }
  if (config_.positions == PositionKind::kRope) {
    if (lifetime.sinks > 0) {
      backend_.rope({.x = q,
                     .cos_sin = activations_.sink_rope_table->floats(),
                     .tokens = tokens,
                     .heads = static_cast<size_t>(config_.head_count),
                     .head_dim = head_dim,
                     .rot_dim = static_cast<size_t>(config_.rope.dims),
                     .stride = stride,
                     .pairing = config_.rope.pairing,
                     .out = activations_.sink_query->floats(),
                     .out_stride = static_cast<size_t>(config_.query_width())});
    }
    const bool local =
        config_.local_rope && config_.windowed_layers[static_cast<size_t>(layer_index)];
    const auto& table = local ? activations_.local_rope_table : activations_.rope_table;
    // q and k lie side by side: one call rotates the heads of both.
    backend_.rope({.x = q,
                   .cos_sin = table->floats(),
                   .tokens = tokens,
                   .heads = static_cast<size_t>(config_.head_count + config_.head_count_kv),
                   .head_dim = head_dim,
                   .rot_dim = static_cast<size_t>(config_.rope.dims),
                   .stride = stride,
                   .pairing = config_.rope.pairing});
  }
}

// The activation takes the place of the gate, or of up where there is none.
void DecoderModel::feed_forward_block(size_t tokens, int layer_index) {
  const DecoderLayer& layer = weights_.layers[static_cast<size_t>(layer_index)];
  const size_t inner = static_cast<size_t>(config_.feed_forward_length);
  const size_t stride = layer.has_fused_gate() ? 2 * inner : inner;
  float* product = activations_.inner->floats();

  apply_norm(layer.feed_forward_norm, activations_.hidden->floats(), activations_.normed->floats(),
             tokens);
  LinearArgs linear = {.x = activations_.normed->floats(),
                       .x_stride = static_cast<size_t>(config_.embedding_length),
                       .tokens = tokens};
  const auto output_of = [&](const Linear& part) {
    return LinearOutput{part.weight.get(), bias_of(part), product, stride};
  };
  if (config_.gated_feed_forward && !layer.has_fused_gate()) {
    const std::array outputs = {output_of(layer.gate), output_of(layer.up)};
    linear.outputs = outputs;
    linear.gate = config_.activation;
    backend_.linear(linear);
  } else {
    const std::array outputs = {output_of(layer.has_fused_gate() ? layer.gate_up : layer.up)};
    linear.outputs = outputs;
    backend_.linear(linear);
    backend_.activation({.activation = config_.activation,
                         .gate = product,
                         .up = layer.has_fused_gate() ? product + inner : nullptr,
                         .out = product,
                         .tokens = tokens,
                         .dim = inner,
                         .gate_stride = stride,
                         .up_stride = stride,
                         .out_stride = stride});
  }
  add_to_residual(layer.down, layer.post_feed_forward_norm, product, stride, tokens);
}

// hidden += norm(x W^T + b), the norm only where the architecture has one behind its parts.
void DecoderModel::add_to_residual(const Linear& linear, const Norm& post_norm, const float* x,
                                   size_t x_stride, size_t tokens) {
  const size_t width = static_cast<size_t>(config_.embedding_length);
  float* hidden = activations_.hidden->floats();
  float* normed = activations_.normed->floats();
  const bool direct = !config_.post_norms;
  const std::array output = {LinearOutput{linear.weight.get(), bias_of(linear),
                                          direct ? hidden : normed, width,
                                          direct ? LinearStore::kAdd : LinearStore::kSet}};
  backend_.linear({.x = x, .x_stride = x_stride, .tokens = tokens, .outputs = output});
  if (direct) return;
  apply_norm(post_norm, normed, normed, tokens);
  backend_.add({.a = hidden, .b = normed, .out = hidden, .elements = tokens * width});
}

void DecoderModel::apply_norm(const Norm& norm, const float* x, float* y, size_t tokens) {
  quipu::apply_norm(backend_, config_, norm, x, y, tokens);
}

DecoderModel::DecoderModel(Backend& backend, ModelConfig config, DecoderWeights weights,
                           int batch_tokens_max)
    : backend_(backend),
      config_(std::move(config)),
      weights_(std::move(weights)),
      batch_tokens_max_(batch_tokens_max) {}

Result<std::unique_ptr<DecoderModel>> DecoderModel::create(Backend& backend, ModelConfig config,
                                                           DecoderWeights weights,
                                                           int batch_tokens_max) {
  std::unique_ptr<DecoderModel> model(
      new DecoderModel(backend, std::move(config), std::move(weights), batch_tokens_max));
  QUIPU_RETURN_IF_ERROR(model->allocate_activations());
  return model;
}

Status DecoderModel::allocate_activations() {
  const auto rows_of = [&](std::unique_ptr<DeviceBuffer>& buffer, size_t columns) {
    Result<std::unique_ptr<DeviceBuffer>> allocated =
        backend_.allocate(static_cast<size_t>(batch_tokens_max_) * columns * sizeof(float));
    if (!allocated.ok()) return allocated.status();
    buffer = std::move(allocated).value();
    return Status::ok_status();
  };
  Activations& a = activations_;
  QUIPU_RETURN_IF_ERROR(rows_of(a.hidden, static_cast<size_t>(config_.embedding_length)));
  QUIPU_RETURN_IF_ERROR(rows_of(a.normed, static_cast<size_t>(config_.embedding_length)));
  QUIPU_RETURN_IF_ERROR(rows_of(a.qkv, qkv_width(config_)));
  QUIPU_RETURN_IF_ERROR(
      rows_of(a.attention, static_cast<size_t>(config_.head_count) * config_.value_length));
  const bool fused = std::ranges::any_of(weights_.layers, &DecoderLayer::has_fused_gate);
  QUIPU_RETURN_IF_ERROR(
      rows_of(a.inner, static_cast<size_t>(config_.feed_forward_length) * (fused ? 2 : 1)));
  if (config_.local_rope) {
    QUIPU_RETURN_IF_ERROR(
        rows_of(a.local_rope_table, static_cast<size_t>(config_.local_rope->dims)));
  }
  return rows_of(a.rope_table, static_cast<size_t>(config_.rope.dims));
}

size_t DecoderModel::activation_bytes() const {
  const Activations& a = activations_;
  size_t total = 0;
  for (const auto* buffer : {&a.hidden, &a.normed, &a.qkv, &a.attention, &a.inner, &a.rope_table,
                             &a.local_rope_table, &a.logits}) {
    if (*buffer != nullptr) total += (*buffer)->size();
  }
  return total;
}

}  // namespace quipu
