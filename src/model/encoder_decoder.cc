#include "model/encoder_decoder.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/check.h"
#include "base/units.h"
#include "model/output_head.h"

namespace quipu {

namespace {

constexpr int kScratchBlockTokens = 256;  // of the encoder's own keys and values

const float* bias_of(const Linear& linear) { return linear.bias ? linear.bias->floats() : nullptr; }

LinearOutput output_of(const Linear& linear, float* y, size_t y_stride,
                       LinearStore store = LinearStore::kSet) {
  return {linear.weight.get(), bias_of(linear), y, y_stride, store};
}

}  // namespace

// ---- the encoder: once for each input ----

void EncoderDecoderModel::encode(const EncoderInput& input, const PagedKvView& cross) {
  const size_t tokens = input.token_ids.size();
  QUIPU_CHECK(tokens > 0 && static_cast<int64_t>(tokens) <= input_.tokens_max,
              "an input of {} tokens in a room of {}", tokens, input_.tokens_max);
  const auto block_tokens = static_cast<size_t>(cross.block_tokens);
  QUIPU_CHECK(
      input.block_table.size() * block_tokens >= tokens && cross.num_layers == config_.block_count,
      "{} blocks for {} tokens, {} layers of cross-attention", input.block_table.size(), tokens,
      cross.num_layers);
  for (size_t t = 0; t < tokens; ++t) {
    input_.cross_slots[t] = int64_t{input.block_table[t / block_tokens]} * cross.block_tokens +
                            static_cast<int64_t>(t % block_tokens);
  }
  input_.key_count = static_cast<int32_t>(tokens);
  input_.whole_chunk = {0, batch_tokens_max_};
  input_.last_chunk = {0, input_.key_count % batch_tokens_max_};
  const EmbeddingTable& table =
      weights_.input_embedding ? *weights_.input_embedding : *weights_.token_embedding;
  embed(table, input.token_ids, std::span(input_.positions).first(tokens), input_.hidden->floats());
  for (const EncoderStackLayer& layer : weights_.encoder) encoder_layer(layer, tokens);
  write_cross(input, cross);
  backend_.synchronise();
}

// The one sequence of a chunk of the input: [0, count).
const int32_t* EncoderDecoderModel::chunk_start(size_t count) const {
  const bool whole = count == static_cast<size_t>(batch_tokens_max_);
  return (whole ? input_.whole_chunk : input_.last_chunk).data();
}

// Every token sees all others, so the keys and values of all come first and the rest follows. Both
// go in chunks of batch_tokens_max tokens: a longer input needs more room for its residual stream,
// keys and values only. The norm before the part is computed in both rounds.
void EncoderDecoderModel::encoder_layer(const EncoderStackLayer& layer, size_t tokens) {
  const AttentionWeights& attention = layer.attention;
  const size_t stride = qkv_width();
  for_each_chunk(tokens, [&](size_t first, size_t count) {
    const float* x = begin_part(attention.norm, input_.hidden->floats() + first * width(), count);
    project(x, count,
            {output_of(attention.key, key(), stride), output_of(attention.value, value(), stride)});
    backend_.kv_write({.k = key(),
                       .v = value(),
                       .k_stride = stride,
                       .v_stride = stride,
                       .slot_mapping = input_.slots.data() + first,
                       .tokens = count,
                       .kv = scratch_view(),
                       .layer = 0});
  });
  for_each_chunk(tokens, [&](size_t first, size_t count) {
    float* hidden = input_.hidden->floats() + first * width();
    project(begin_part(attention.norm, hidden, count), count,
            {output_of(attention.query, query(), stride)});
    attend({.tokens = count,
            .sequences = 1,
            .query_start = chunk_start(count),
            .positions = input_.positions.data() + first,
            .block_tables = input_.block_table.data(),
            .block_table_stride = input_.block_table.size(),
            .kv = scratch_view(),
            .layer = 0,
            .key_counts = &input_.key_count,
            .bias = weights_.encoder_bias.at_distance_zero(),
            .bias_stride = weights_.encoder_bias.stride()},
           attention, hidden);
    feed_forward(layer.feed_forward, hidden, count);
  });
}

// What every decoder layer will want to know of the input.
void EncoderDecoderModel::write_cross(const EncoderInput& input, const PagedKvView& cross) {
  const size_t stride = qkv_width();
  for_each_chunk(input.token_ids.size(), [&](size_t first, size_t count) {
    const float* encoded = input_.hidden->floats() + first * width();
    if (weights_.encoder_norm.weight != nullptr) {
      apply_norm(weights_.encoder_norm, encoded, activations_.normed->floats(), count);
      encoded = activations_.normed->floats();
    }
    for (int layer = 0; layer < config_.block_count; ++layer) {
      const AttentionWeights& weights = weights_.decoder[static_cast<size_t>(layer)].cross;
      project(encoded, count,
              {output_of(weights.key, key(), stride), output_of(weights.value, value(), stride)});
      backend_.kv_write({.k = key(),
                         .v = value(),
                         .k_stride = stride,
                         .v_stride = stride,
                         .slot_mapping = input_.cross_slots.data() + first,
                         .tokens = count,
                         .kv = cross,
                         .layer = layer,
                         .sequences = 1,
                         .query_start = chunk_start(count),
                         .positions = input_.positions.data() + first,
                         .block_tables = input.block_table.data(),
                         .block_table_stride = input.block_table.size()});
    }
  });
}

// ---- the decoder: its own tokens, one pass like any other ----

std::span<const float> EncoderDecoderModel::forward(const ForwardBatch& batch,
                                                    const KvCacheView& kv) {
  const size_t tokens = batch.token_ids.size();
  QUIPU_CHECK(tokens > 0 && tokens <= static_cast<size_t>(batch_tokens_max_),
              "{} tokens in a pass of {}", tokens, batch_tokens_max_);
  QUIPU_CHECK(batch.positions.size() == tokens && batch.groups.size() == kv.groups.size() &&
                  kv.layers.size() == static_cast<size_t>(config_.block_count) &&
                  batch.inputs.lengths.size() == batch.query_start.size() - 1,
              "ragged batch");
  if (!weights_.decoder_bias.empty()) {
    const Status reserved = weights_.decoder_bias.reserve(std::ranges::max(batch.positions));
    QUIPU_CHECK(reserved.ok(), "{}", reserved.message());
  }
  float* hidden = activations_.hidden->floats();
  embed(*weights_.token_embedding, batch.token_ids, batch.positions, hidden);
  for (int layer = 0; layer < config_.block_count; ++layer) {
    self_attention(batch, kv, layer);
    cross_attention(batch, layer);
    feed_forward(weights_.decoder[static_cast<size_t>(layer)].feed_forward, hidden, tokens);
  }
  return compute_logits(backend_, config_, {weights_.decoder_norm, weights_.output},
                        batch.logit_rows, activations_.hidden->floats(),
                        activations_.normed->floats(), activations_.logits);
}

void EncoderDecoderModel::embed(const EmbeddingTable& table, std::span<const int32_t> ids,
                                std::span<const int32_t> positions, float* hidden) {
  backend_.embed({.table = &table,
                  .ids = ids.data(),
                  .out = hidden,
                  .tokens = ids.size(),
                  .scale = config_.encoder_decoder->embedding_scale});
  if (weights_.position_embedding == nullptr) return;
  backend_.embed({.table = weights_.position_embedding.get(),
                  .ids = positions.data(),
                  .out = hidden,
                  .tokens = ids.size(),
                  .accumulate = true});
}

void EncoderDecoderModel::self_attention(const ForwardBatch& batch, const KvCacheView& kv,
                                         int layer) {
  const KvLayerPlace place = kv.layers[static_cast<size_t>(layer)];
  const KvGroupView& group = kv.groups[static_cast<size_t>(place.group)];
  const GroupBatch& blocks = batch.groups[static_cast<size_t>(place.group)];
  const AttentionWeights& weights = weights_.decoder[static_cast<size_t>(layer)].attention;
  const size_t tokens = batch.token_ids.size();
  const size_t stride = qkv_width();
  float* hidden = activations_.hidden->floats();
  project(begin_part(weights.norm, hidden, tokens), tokens,
          {output_of(weights.query, query(), stride), output_of(weights.key, key(), stride),
           output_of(weights.value, value(), stride)});
  backend_.kv_write({.k = key(),
                     .v = value(),
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
                     .block_table_stride = blocks.block_table_stride});
  attend({.tokens = tokens,
          .sequences = batch.query_start.size() - 1,
          .query_start = batch.query_start.data(),
          .positions = batch.positions.data(),
          .block_tables = blocks.block_tables.data(),
          .block_table_stride = blocks.block_table_stride,
          .kv = group.kv,
          .layer = place.index,
          .bias = weights_.decoder_bias.at_distance_zero(),
          .bias_stride = weights_.decoder_bias.stride()},
         weights, hidden);
}

void EncoderDecoderModel::cross_attention(const ForwardBatch& batch, int layer) {
  const AttentionWeights& weights = weights_.decoder[static_cast<size_t>(layer)].cross;
  const size_t tokens = batch.token_ids.size();
  float* hidden = activations_.hidden->floats();
  project(begin_part(weights.norm, hidden, tokens), tokens,
          {output_of(weights.query, query(), qkv_width())});
  attend({.tokens = tokens,
          .sequences = batch.query_start.size() - 1,
          .query_start = batch.query_start.data(),
          .positions = batch.positions.data(),
          .block_tables = batch.inputs.block_tables.data(),
          .block_table_stride = batch.inputs.block_table_stride,
          .kv = batch.inputs.kv,
          .layer = layer,
          .key_counts = batch.inputs.lengths.data()},
         weights, hidden);
}

// ---- the parts of a layer ----

// What a part reads: the residual stream, through its norm where that stands before it.
const float* EncoderDecoderModel::begin_part(const Norm& norm, const float* hidden, size_t tokens) {
  if (config_.encoder_decoder->norm_placement == NormPlacement::kAfter) return hidden;
  apply_norm(norm, hidden, activations_.normed->floats(), tokens);
  return activations_.normed->floats();
}

// After the part was added to the residual stream.
void EncoderDecoderModel::end_part(const Norm& norm, float* hidden, size_t tokens) {
  if (config_.encoder_decoder->norm_placement == NormPlacement::kAfter)
    apply_norm(norm, hidden, hidden, tokens);
}

void EncoderDecoderModel::apply_norm(const Norm& norm, const float* x, float* y, size_t tokens) {
  quipu::apply_norm(backend_, config_, norm, x, y, tokens);
}

// Products of rows [embedding_length].
void EncoderDecoderModel::project(const float* x, size_t tokens,
                                  std::initializer_list<LinearOutput> outputs) {
  backend_.linear({.x = x,
                   .x_stride = width(),
                   .tokens = tokens,
                   .outputs = std::span(outputs.begin(), outputs.size())});
}

// Attention of the queries at hand, its output projection onto the residual stream, and the end of
// the part. `args` says who sees what.
void EncoderDecoderModel::attend(AttentionArgs args, const AttentionWeights& weights,
                                 float* hidden) {
  const size_t attention_width =
      static_cast<size_t>(config_.head_count) * static_cast<size_t>(config_.value_length);
  args.q = query();
  args.q_stride = qkv_width();
  args.out = activations_.attention->floats();
  args.out_stride = attention_width;
  args.heads = static_cast<size_t>(config_.head_count);
  args.scale = config_.attention_scale;
  backend_.attention(args);
  const std::array output = {output_of(weights.output, hidden, width(), LinearStore::kAdd)};
  backend_.linear({.x = activations_.attention->floats(),
                   .x_stride = attention_width,
                   .tokens = args.tokens,
                   .outputs = output});
  end_part(weights.norm, hidden, args.tokens);
}

void EncoderDecoderModel::feed_forward(const FeedForwardWeights& weights, float* hidden,
                                       size_t tokens) {
  const auto inner = static_cast<size_t>(config_.feed_forward_length);
  float* up = activations_.up->floats();
  const float* x = begin_part(weights.norm, hidden, tokens);
  if (config_.gated_feed_forward) {
    const std::array outputs = {output_of(weights.gate, up, inner),
                                output_of(weights.up, up, inner)};
    backend_.linear({.x = x,
                     .x_stride = width(),
                     .tokens = tokens,
                     .outputs = outputs,
                     .gate = config_.activation});
  } else {
    project(x, tokens, {output_of(weights.up, up, inner)});
    backend_.activation({.activation = config_.activation,
                         .gate = up,
                         .out = up,
                         .tokens = tokens,
                         .dim = inner,
                         .gate_stride = inner,
                         .up_stride = inner,
                         .out_stride = inner});
  }
  const std::array down = {output_of(weights.down, hidden, width(), LinearStore::kAdd)};
  backend_.linear({.x = up, .x_stride = inner, .tokens = tokens, .outputs = down});
  end_part(weights.norm, hidden, tokens);
}

// work(first token, tokens) over [0, tokens), in pieces that the activations hold.
template <typename Work>
void EncoderDecoderModel::for_each_chunk(size_t tokens, const Work& work) const {
  const auto chunk = static_cast<size_t>(batch_tokens_max_);
  for (size_t first = 0; first < tokens; first += chunk)
    work(first, std::min(chunk, tokens - first));
}

// ---- memory ----

EncoderDecoderModel::EncoderDecoderModel(Backend& backend, ModelConfig config,
                                         EncoderDecoderWeights weights, int batch_tokens_max)
    : backend_(backend),
      config_(std::move(config)),
      weights_(std::move(weights)),
      batch_tokens_max_(batch_tokens_max) {}

Result<std::unique_ptr<EncoderDecoderModel>> EncoderDecoderModel::create(
    Backend& backend, ModelConfig config, EncoderDecoderWeights weights, int batch_tokens_max) {
  std::unique_ptr<EncoderDecoderModel> model(
      new EncoderDecoderModel(backend, std::move(config), std::move(weights), batch_tokens_max));
  QUIPU_RETURN_IF_ERROR(model->allocate_activations());
  return model;
}

size_t EncoderDecoderModel::qkv_width() const {
  return static_cast<size_t>(config_.query_width() + config_.key_width() + config_.value_width());
}

Status EncoderDecoderModel::allocate_activations() {
  const auto rows_of = [&](std::unique_ptr<DeviceBuffer>& buffer, size_t columns) -> Status {
    QUIPU_ASSIGN_OR_RETURN(buffer, backend_.allocate(static_cast<size_t>(batch_tokens_max_) *
                                                     columns * sizeof(float)));
    return Status::ok_status();
  };
  const auto inner = static_cast<size_t>(config_.feed_forward_length);
  Activations& a = activations_;
  QUIPU_RETURN_IF_ERROR(rows_of(a.hidden, width()));
  QUIPU_RETURN_IF_ERROR(rows_of(a.normed, width()));
  QUIPU_RETURN_IF_ERROR(rows_of(a.qkv, qkv_width()));
  QUIPU_RETURN_IF_ERROR(
      rows_of(a.attention, static_cast<size_t>(config_.head_count) * config_.value_length));
  return rows_of(a.up, inner);
}

Status EncoderDecoderModel::reserve_input(int64_t tokens_max) {
  if (tokens_max <= input_.tokens_max) return Status::ok_status();
  const auto tokens = static_cast<size_t>(tokens_max);
  const size_t blocks = ceil_div(static_cast<uint64_t>(tokens_max), kScratchBlockTokens);
  InputRoom room;
  room.tokens_max = tokens_max;
  room.layer.layout =
      make_kv_layer_layout(KvFormat::kF32, config_.head_count_kv, config_.key_length,
                           config_.value_length, kScratchBlockTokens);
  QUIPU_ASSIGN_OR_RETURN(room.hidden, backend_.allocate(tokens * width() * sizeof(float)));
  QUIPU_ASSIGN_OR_RETURN(room.scratch, backend_.allocate(blocks * room.layer.layout.layer_bytes));
  if (!weights_.encoder_bias.empty())
    QUIPU_RETURN_IF_ERROR(weights_.encoder_bias.reserve(tokens_max));
  room.block_table.resize(blocks);
  room.slots.resize(tokens);
  room.positions.resize(tokens);
  room.cross_slots.resize(tokens);
  std::iota(room.block_table.begin(), room.block_table.end(), 0);
  std::iota(room.slots.begin(), room.slots.end(), 0);
  std::iota(room.positions.begin(), room.positions.end(), 0);
  input_ = std::move(room);
  return Status::ok_status();
}

PagedKvView EncoderDecoderModel::scratch_view() const {
  return {.base = input_.scratch->data(),
          .block_bytes = input_.layer.layout.layer_bytes,
          .block_tokens = kScratchBlockTokens,
          .layers = &input_.layer,
          .num_layers = 1};
}

size_t EncoderDecoderModel::activation_bytes() const {
  const Activations& a = activations_;
  size_t total = weights_.encoder_bias.bytes() + weights_.decoder_bias.bytes();
  for (const auto* buffer : {&a.hidden, &a.normed, &a.qkv, &a.attention, &a.up, &a.logits,
                             &input_.hidden, &input_.scratch}) {
    if (*buffer != nullptr) total += (*buffer)->size();
  }
  return total;
}

}  // namespace quipu
