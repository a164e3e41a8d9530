#include "model/decoder.h"

#include <array>

#include "base/check.h"
#include "base/units.h"

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
  return output_logits(batch);
}

// Angles of the batch's positions, and of where a query stands when it looks at sinks: at most a
// window past them, as if nothing had been between. Keys keep the angles of their own positions.
// SOURCE: Xiao et al. 2023 (StreamingLLM), positions inside the cache; here the query moves.
void DecoderModel::fill_rope_tables(const ForwardBatch& batch, const KvCacheView& kv) {
  fill_rope_table(weights_.rope, batch.positions, config_.context_length,
                  activations_.rope_table->floats());
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
                  .tokens = batch.token_ids.size()});
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
  const size_t tokens = batch.token_ids.size();
  const size_t stride = qkv_width(config_);
  const size_t attention_width = static_cast<size_t>(config_.head_count) * config_.value_length;
  float* q = activations_.qkv->floats();
  float* k = q + config_.query_width();
  float* v = k + config_.key_width();

  apply_norm(layer.attention_norm, activations_.hidden->floats(), activations_.normed->floats(),
             tokens);
  project_query_key_value(tokens, layer);
  normalise_and_rotate(tokens, layer, group.lifetime);
  const bool turned = group.lifetime.sinks > 0 && config_.positions == PositionKind::kRope;
  backend_.kv_write({.k = k,
                     .v = v,
                     .k_stride = stride,
                     .v_stride = stride,
                     .slot_mapping = blocks.slot_mapping.data(),
                     .tokens = tokens,
                     .kv = group.kv,
                     .layer = place.index});
  backend_.attention(
      {.q = q,
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
       .block_gaps = blocks.block_gaps.empty() ? nullptr : blocks.block_gaps.data(),
       .kv = group.kv,
       .layer = place.index,
       .scale = config_.attention_scale,
       .window = group.lifetime.window,
       .sinks = group.lifetime.sinks,
       .q_sinks = turned ? activations_.sink_query->floats() : q,
       .q_sinks_stride = turned ? static_cast<size_t>(config_.query_width()) : stride});
  const std::array output = {
      LinearOutput{layer.attention_output.weight.get(), bias_of(layer.attention_output),
                   activations_.hidden->floats(), static_cast<size_t>(config_.embedding_length),
                   LinearStore::kAdd}};
  backend_.linear({.x = activations_.attention->floats(),
                   .x_stride = attention_width,
                   .tokens = tokens,
                   .outputs = output});
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

void DecoderModel::normalise_and_rotate(size_t tokens, const DecoderLayer& layer,
                                        const KvLifetime& lifetime) {
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
    // q and k lie side by side: one call rotates the heads of both.
    backend_.rope({.x = q,
                   .cos_sin = activations_.rope_table->floats(),
                   .tokens = tokens,
                   .heads = static_cast<size_t>(config_.head_count + config_.head_count_kv),
                   .head_dim = head_dim,
                   .rot_dim = static_cast<size_t>(config_.rope.dims),
                   .stride = stride,
                   .pairing = config_.rope.pairing});
  }
}

void DecoderModel::feed_forward_block(size_t tokens, int layer_index) {
  const DecoderLayer& layer = weights_.layers[static_cast<size_t>(layer_index)];
  const size_t width = static_cast<size_t>(config_.embedding_length);
  const size_t inner = static_cast<size_t>(config_.feed_forward_length);
  float* gate = activations_.gate->floats();
  float* up = activations_.up->floats();

  apply_norm(layer.feed_forward_norm, activations_.hidden->floats(), activations_.normed->floats(),
             tokens);
  const std::array gate_and_up = {
      LinearOutput{layer.up.weight.get(), bias_of(layer.up), up, inner},
      LinearOutput{layer.gate.weight.get(), bias_of(layer.gate), gate, inner}};
  const size_t products = config_.gated_feed_forward ? 2 : 1;
  backend_.linear({.x = activations_.normed->floats(),
                   .x_stride = width,
                   .tokens = tokens,
                   .outputs = std::span(gate_and_up).first(products)});
  ActivationArgs activation = {.activation = config_.activation,
                               .gate = up,
                               .out = up,
                               .tokens = tokens,
                               .dim = inner,
                               .gate_stride = inner,
                               .up_stride = inner,
                               .out_stride = inner};
  if (config_.gated_feed_forward) {
    activation.gate = gate;
    activation.up = up;
  }
  backend_.activation(activation);
  const std::array down = {LinearOutput{layer.down.weight.get(), bias_of(layer.down),
                                        activations_.hidden->floats(), width, LinearStore::kAdd}};
  backend_.linear({.x = up, .x_stride = inner, .tokens = tokens, .outputs = down});
}

// Final norm and head, on the rows that need logits only.
std::span<const float> DecoderModel::output_logits(const ForwardBatch& batch) {
  const size_t rows = batch.logit_rows.size();
  if (rows == 0) {
    backend_.synchronise();
    return {};
  }
  const size_t width = static_cast<size_t>(config_.embedding_length);
  const size_t vocab = static_cast<size_t>(config_.vocab_size);
  if (activations_.logits == nullptr ||
      activations_.logits->size() < rows * vocab * sizeof(float)) {
    // Grows to the most rows ever asked for; a steady state asks for no more.
    Result<std::unique_ptr<DeviceBuffer>> logits = backend_.allocate(rows * vocab * sizeof(float));
    QUIPU_CHECK(logits.ok(), "{} rows of logits: {}", rows, logits.status().message());
    activations_.logits = std::move(logits).value();
  }
  float* gathered = activations_.normed->floats();
  backend_.gather_rows({.x = activations_.hidden->floats(),
                        .rows = batch.logit_rows.data(),
                        .out = gathered,
                        .count = rows,
                        .dim = width});
  apply_norm(weights_.output_norm, gathered, gathered, rows);
  const std::array head = {LinearOutput{weights_.output.weight.get(), bias_of(weights_.output),
                                        activations_.logits->floats(), vocab}};
  backend_.linear({.x = gathered, .x_stride = width, .tokens = rows, .outputs = head});
  backend_.synchronise();
  return {activations_.logits->floats(), rows * vocab};
}

void DecoderModel::apply_norm(const Norm& norm, const float* x, float* y, size_t tokens) {
  const size_t dim = static_cast<size_t>(config_.embedding_length);
  backend_.norm({.kind = config_.norm,
                 .x = x,
                 .y = y,
                 .weight = norm.weight->floats(),
                 .bias = norm.bias ? norm.bias->floats() : nullptr,
                 .tokens = tokens,
                 .groups = 1,
                 .dim = dim,
                 .x_stride = dim,
                 .y_stride = dim,
                 .epsilon = config_.norm_epsilon});
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
  QUIPU_RETURN_IF_ERROR(rows_of(a.gate, static_cast<size_t>(config_.feed_forward_length)));
  QUIPU_RETURN_IF_ERROR(rows_of(a.up, static_cast<size_t>(config_.feed_forward_length)));
  return rows_of(a.rope_table, static_cast<size_t>(config_.rope.dims));
}

size_t DecoderModel::activation_bytes() const {
  const Activations& a = activations_;
  size_t total = 0;
  for (const auto* buffer :
       {&a.hidden, &a.normed, &a.qkv, &a.attention, &a.gate, &a.up, &a.rope_table, &a.logits}) {
    if (*buffer != nullptr) total += (*buffer)->size();
  }
  return total;
}

}  // namespace quipu
