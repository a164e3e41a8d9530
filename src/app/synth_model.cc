#include "app/synth_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "base/random.h"
#include "base/suggest.h"
#include "format/hf_config.h"
#include "format/weight_types.h"
#include "tensor/quantize.h"

namespace quipu {

namespace {

struct ModelShape {
  std::string_view name;
  std::string_view architecture;
  int64_t layers, hidden, inner, heads, heads_kv, head_dim, vocabulary, context;
  bool tied;
  double theta;  // 0: learned positions
  double epsilon;
  double rope_factor = 0;      // of llama3 scaling, in gemma3 of linear scaling; 0: none
  int64_t window = 0;          // sliding attention; 0: none
  int64_t full_every = 0;      // with a window: every so many layers, one without; 0: as the
                               // architecture has it
  int64_t long_rope_from = 0;  // LongRoPE's original context; 0: no factors
};

// SOURCE: config.json of each published model.
constexpr std::array kShapes = {
    ModelShape{"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, true, 1e6, 1e-6},
    ModelShape{"qwen3-1.7b", "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, 40960, true, 1e6, 1e-6},
    ModelShape{"qwen3-4b", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, 40960, true, 1e6, 1e-6},
    ModelShape{"qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, false, 1e6, 1e-6},
    ModelShape{"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, true, 1e6, 1e-6},
    ModelShape{"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, true, 5e5, 1e-5,
               32},
    ModelShape{"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, 131072, true, 5e5, 1e-5,
               32},
    ModelShape{"llama-3-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 8192, false, 5e5, 1e-5},
    ModelShape{"llama-2-7b", "llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096, false, 1e4, 1e-5},
    ModelShape{"tinyllama-1.1b", "llama", 22, 2048, 5632, 32, 4, 64, 32000, 2048, false, 1e4, 1e-5},
    ModelShape{"smollm2-135m", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, true, 1e5, 1e-5},
    ModelShape{"mistral-7b", "llama", 32, 4096, 14336, 32, 8, 128, 32768, 32768, false, 1e6, 1e-5},
    ModelShape{"gpt2", "gpt2", 12, 768, 3072, 12, 12, 64, 50257, 1024, true, 0, 1e-5},
    ModelShape{"starcoderbase-1b", "starcoder", 24, 2048, 8192, 16, 1, 128, 49152, 8192, true, 0,
               1e-5},
    ModelShape{"t5-small", "t5", 6, 512, 2048, 8, 8, 64, 32128, 512, true, 0, 1e-6},
    ModelShape{"flan-t5-base", "t5", 12, 768, 2048, 12, 12, 64, 32128, 512, false, 0, 1e-6},
    ModelShape{"gemma-2-2b", "gemma2", 26, 2304, 9216, 8, 4, 256, 256000, 8192, true, 1e4, 1e-6, 0,
               4096},
    ModelShape{"gemma-3-1b", "gemma3", 26, 1152, 6912, 4, 1, 256, 262144, 32768, true, 1e6, 1e-6, 0,
               512},
    ModelShape{"gemma-3-4b", "gemma3", 34, 2560, 10240, 8, 4, 256, 262208, 131072, true, 1e6, 1e-6,
               8, 1024},
    ModelShape{"phi-3-mini", "phi3", 32, 3072, 8192, 32, 32, 96, 32064, 4096, false, 1e4, 1e-5, 0,
               2047},
    ModelShape{"phi-3-mini-128k", "phi3", 32, 3072, 8192, 32, 32, 96, 32064, 131072, false, 1e4,
               1e-5, 0, 0, 0, 4096},
    // For tests: rows of 256, so that every type applies; vocabularies that 16 does not divide.
    ModelShape{"tiny-llama", "llama", 2, 256, 256, 4, 2, 64, 321, 2048, false, 1e4, 1e-5},
    ModelShape{"tiny-qwen2", "qwen2", 2, 256, 256, 4, 1, 64, 321, 2048, true, 1e6, 1e-6},
    ModelShape{"tiny-qwen3", "qwen3", 2, 256, 256, 4, 2, 128, 321, 2048, true, 1e6, 1e-6},
    ModelShape{"tiny-gpt2", "gpt2", 2, 256, 512, 4, 4, 64, 321, 512, true, 0, 1e-5},
    ModelShape{"tiny-starcoder", "starcoder", 2, 256, 512, 4, 1, 64, 321, 512, true, 0, 1e-5},
    // Windows smaller than a block: in every layer as Mistral 7B 0.1, in five of six as Gemma 3.
    ModelShape{"tiny-windows", "llama", 2, 256, 256, 4, 2, 64, 321, 2048, false, 1e4, 1e-5, 0, 24},
    ModelShape{"tiny-mixed", "llama", 6, 256, 256, 4, 2, 64, 321, 2048, true, 1e4, 1e-5, 0, 20, 6},
    ModelShape{"tiny-t5", "t5", 2, 256, 256, 4, 4, 64, 321, 512, false, 0, 1e-6},
    // Windows of 48 in one of two layers, and in five of six.
    ModelShape{"tiny-gemma2", "gemma2", 2, 256, 256, 4, 2, 64, 321, 2048, true, 1e4, 1e-6, 0, 48},
    ModelShape{"tiny-gemma3", "gemma3", 6, 256, 256, 2, 1, 64, 321, 2048, true, 1e6, 1e-6, 8, 48},
    ModelShape{"tiny-phi3", "phi3", 2, 256, 256, 4, 4, 64, 321, 2048, false, 1e4, 1e-5, 0, 0, 0,
               256},
};

constexpr int64_t kT5Buckets = 32;  // of relative positions, in all published models

// How a tensor's values are drawn: normal with this mean and deviation. Vectors are drawn one by
// one, matrices from a pool; fixed values are given.
struct Recipe {
  float mean = 0;
  float deviation = 0;
  std::vector<float> fixed;
};

struct SynthTensor {
  TensorInfo info;
  Recipe recipe;
};

class ModelPlan {
 public:
  ModelPlan(const ModelShape& shape, DType type)
      : shape_(shape), mix_{type, shape.layers, shape.tied} {
    if (is_t5()) {
      add_t5();
      return;
    }
    add_globals();
    for (int64_t layer = 0; layer < shape.layers; ++layer) add_layer(layer);
  }

  std::vector<SynthTensor> take() { return std::move(tensors_); }

 private:
  bool is_t5() const { return shape_.architecture == "t5"; }
  bool is_gpt2_like() const { return shape_.theta == 0 && !is_t5(); }
  bool is_gemma() const { return shape_.architecture.starts_with("gemma"); }
  bool is_phi3() const { return shape_.architecture == "phi3"; }

  void add(std::string name, Shape dimensions, Recipe recipe) {
    TensorInfo info{std::move(name), DType::kF32, std::move(dimensions), 0};
    info.dtype = mixed_dtype(mix_, info.name, info.shape);
    const auto columns = static_cast<size_t>(info.shape.back());
    info.bytes =
        static_cast<size_t>(element_count(info.shape)) / columns * row_bytes(info.dtype, columns);
    tensors_.push_back({std::move(info), std::move(recipe)});
  }

  // A linear layer keeps the scale of its input: inputs of size 1 give outputs of size `gain`.
  void add_linear(const std::string& name, int64_t out, int64_t in, float gain = 1,
                  bool biased = false) {
    add(name + ".weight", {out, in}, {0, gain / std::sqrt(static_cast<float>(in)), {}});
    if (biased) add(name + ".bias", {out}, {0, 0.02f, {}});
  }

  void add_norm(const std::string& name, int64_t size) {
    add(name + ".weight", {size}, {1, 0.1f, {}});
    if (is_gpt2_like()) add(name + ".bias", {size}, {0, 0.02f, {}});
  }

  void add_globals() {
    const float root = std::sqrt(static_cast<float>(shape_.hidden));
    // As a head, logits get a deviation of 2; as an embedding its scale matters little (norms
    // follow).
    add("token_embd.weight", {shape_.vocabulary, shape_.hidden},
        {0, shape_.tied ? 2 / root : 1, {}});
    if (is_gpt2_like())
      add("position_embd.weight", {shape_.context, shape_.hidden}, {0, 0.5f / root, {}});
    add_norm("output_norm", shape_.hidden);
    if (!shape_.tied) add_linear("output", shape_.vocabulary, shape_.hidden, 2);
    if (shape_.architecture == "llama" && shape_.rope_factor != 0) {
      const auto factors = llama3_rope_factors(
          {.theta = shape_.theta, .factor = shape_.rope_factor, .original_context = 8192},
          shape_.head_dim);
      add("rope_freqs.weight", {static_cast<int64_t>(factors.size())}, {0, 0, factors});
    }
    if (shape_.long_rope_from != 0) {
      const int64_t pairs = shape_.head_dim / 2;
      add("rope_factors_long.weight", {pairs}, {0, 0, rising_factors(pairs, 1.1f, 40)});
      add("rope_factors_short.weight", {pairs}, {0, 0, rising_factors(pairs, 1, 0.1f)});
    }
  }

  // LongRoPE's published factors rise like this, from about 1 to some tens.
  static std::vector<float> rising_factors(int64_t pairs, float first, float rise) {
    std::vector<float> factors;
    for (int64_t i = 0; i < pairs; ++i) {
      const float part = static_cast<float>(i) / static_cast<float>(pairs);
      factors.push_back(first + rise * part * part);
    }
    return factors;
  }

  void add_layer(int64_t layer) {
    const std::string block = fmt::format("blk.{}.", layer);
    const int64_t q_rows = shape_.heads * shape_.head_dim,
                  kv_rows = shape_.heads_kv * shape_.head_dim;
    // 2 * layers additions to the residual stream sum to a deviation of about 1.
    const float residual_gain = 1 / std::sqrt(2 * static_cast<float>(shape_.layers));
    const bool biased = is_gpt2_like();
    add_norm(block + "attn_norm", shape_.hidden);
    if (biased || is_phi3()) {
      add_linear(block + "attn_qkv", q_rows + 2 * kv_rows, shape_.hidden, 1, biased);
    } else {
      const bool qkv_biased = shape_.architecture == "qwen2";
      add_linear(block + "attn_q", q_rows, shape_.hidden, 1, qkv_biased);
      add_linear(block + "attn_k", kv_rows, shape_.hidden, 1, qkv_biased);
      add_linear(block + "attn_v", kv_rows, shape_.hidden, 1, qkv_biased);
    }
    if (shape_.architecture == "qwen3" || shape_.architecture == "gemma3") {
      add_norm(block + "attn_q_norm", shape_.head_dim);
      add_norm(block + "attn_k_norm", shape_.head_dim);
    }
    add_linear(block + "attn_output", shape_.hidden, q_rows, residual_gain, biased);
    if (is_gemma()) add_norm(block + "post_attention_norm", shape_.hidden);
    add_norm(block + "ffn_norm", shape_.hidden);
    if (!biased && !is_phi3()) add_linear(block + "ffn_gate", shape_.inner, shape_.hidden);
    add_linear(block + "ffn_up", is_phi3() ? 2 * shape_.inner : shape_.inner, shape_.hidden, 1,
               biased);
    add_linear(block + "ffn_down", shape_.hidden, shape_.inner, residual_gain, biased);
    if (is_gemma()) add_norm(block + "post_ffw_norm", shape_.hidden);
  }

  // Version 1.0 ties the head to the embedding and has no gate; 1.1 has a head and a gate.
  void add_t5() {
    add("token_embd.weight", {shape_.vocabulary, shape_.hidden},
        {0, shape_.tied ? 2.0f : 1.0f, {}});
    if (!shape_.tied) add_linear("output", shape_.vocabulary, shape_.hidden, 2);
    for (const std::string stack : {"enc.", "dec."}) {
      add_norm(stack + "output_norm", shape_.hidden);
      add(stack + "blk.0.attn_rel_b.weight", {kT5Buckets, shape_.heads}, {0, 1, {}});
      for (int64_t layer = 0; layer < shape_.layers; ++layer) add_t5_layer(stack, layer);
    }
  }

  void add_t5_layer(const std::string& stack, int64_t layer) {
    const std::string block = fmt::format("{}blk.{}.", stack, layer);
    const int64_t rows = shape_.heads * shape_.head_dim;
    const bool decoder = stack == "dec.";
    const float residual_gain =
        1 / std::sqrt((decoder ? 3 : 2) * static_cast<float>(shape_.layers));
    // Scores are not divided by the root of the head size: the queries are.
    const float query_gain = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    const auto add_attention = [&](const std::string& name) {
      add_norm(name + "_norm", shape_.hidden);
      add_linear(name + "_q", rows, shape_.hidden, query_gain);
      add_linear(name + "_k", rows, shape_.hidden);
      add_linear(name + "_v", rows, shape_.hidden);
      add_linear(name + "_o", shape_.hidden, rows, residual_gain);
    };
    add_attention(block + "attn");
    if (decoder) add_attention(block + "cross_attn");
    add_norm(block + "ffn_norm", shape_.hidden);
    if (!shape_.tied) add_linear(block + "ffn_gate", shape_.inner, shape_.hidden);
    add_linear(block + "ffn_up", shape_.inner, shape_.hidden);
    add_linear(block + "ffn_down", shape_.hidden, shape_.inner, residual_gain);
  }

  const ModelShape& shape_;
  QuantMix mix_;
  std::vector<SynthTensor> tensors_;
};

Metadata metadata_of(const ModelShape& shape, const SynthOptions& options) {
  Metadata metadata;
  const auto set = [&](std::string_view key, MetadataValue value) {
    metadata.set(fmt::format("{}.{}", shape.architecture, key), std::move(value));
  };
  const auto size = [](int64_t value) { return static_cast<uint64_t>(value); };
  metadata.set("general.architecture", std::string(shape.architecture));
  metadata.set("general.name",
               fmt::format("synthetic {} (random weights, seed {})", shape.name, options.seed));
  set("context_length", size(shape.context));
  set("embedding_length", size(shape.hidden));
  set("block_count", size(shape.layers));
  set("feed_forward_length", size(shape.inner));
  set("attention.head_count", size(shape.heads));
  set("attention.head_count_kv", size(shape.heads_kv));
  if (shape.architecture == "t5") {
    set("decoder_block_count", size(shape.layers));
    set("decoder_start_token_id", uint64_t{0});
    set("attention.key_length", size(shape.head_dim));
    set("attention.value_length", size(shape.head_dim));
    set("attention.relative_buckets_count", size(kT5Buckets));
    set("attention.layer_norm_epsilon", shape.epsilon);
    set("attention.layer_norm_rms_epsilon", shape.epsilon);
  } else if (shape.theta != 0) {
    set("attention.key_length", size(shape.head_dim));
    set("attention.value_length", size(shape.head_dim));
    set("rope.dimension_count", size(shape.head_dim));
    set("rope.freq_base", shape.theta);
    set("attention.layer_norm_rms_epsilon", shape.epsilon);
  } else {
    set("attention.layer_norm_epsilon", shape.epsilon);
  }
  if (shape.window != 0) set("attention.sliding_window", size(shape.window));
  if (shape.full_every != 0) {
    std::vector<bool> windowed;
    for (int64_t layer = 1; layer <= shape.layers; ++layer)
      windowed.push_back(layer % shape.full_every != 0);
    set("attention.sliding_window_pattern", std::move(windowed));
  }
  if (shape.architecture == "gemma2") {
    set("attn_logit_softcapping", 50.0);
    set("final_logit_softcapping", 30.0);
  }
  if (shape.architecture == "gemma3" && shape.rope_factor != 0) {
    set("rope.scaling.type", std::string("linear"));
    set("rope.scaling.factor", shape.rope_factor);
  }
  if (shape.long_rope_from != 0) {
    const double original = static_cast<double>(shape.long_rope_from);
    set("rope.scaling.original_context_length", size(shape.long_rope_from));
    const double stretch = std::max(1.0, static_cast<double>(shape.context) / original);
    set("rope.scaling.attn_factor", std::sqrt(1 + std::log(stretch) / std::log(original)));
  }
  set("vocab_size", size(shape.vocabulary));
  metadata.set("tokenizer.ggml.model", std::string("no_vocab"));
  metadata.set("general.quantization_version", uint64_t{2});
  metadata.set("general.file_type", gguf_file_type(options.type));
  return metadata;
}

// Normal values in stored form, as blocks to build rows from.
class BlockPool {
 public:
  // REQUIRES: `elements` is a power of two of at least 256.
  BlockPool(DType dtype, float deviation, size_t elements, uint64_t seed) : dtype_(dtype) {
    unit_elements_ = std::max<size_t>(32, dtype_traits(dtype).block_elements);
    unit_bytes_ = row_bytes(dtype, unit_elements_);
    Random random(seed);
    std::vector<float> values(elements);
    for (float& value : values) value = deviation * random.next_normal();
    bytes_.resize(row_bytes(dtype, elements));
    quantize_row(dtype, values, bytes_.data());
    units_ = elements / unit_elements_;  // a power of two
  }

  // One row of `columns`, made of units that (seed, tensor, row) choose.
  void fill_row(size_t columns, uint64_t seed, uint64_t tensor, uint64_t row,
                std::byte* out) const {
    const size_t total = row_bytes(dtype_, columns);
    std::array<uint32_t, 4> draws{};
    for (size_t unit = 0, at = 0; at < total; ++unit, at += unit_bytes_) {
      if (unit % 4 == 0) draws = philox4x32(seed, row, tensor << 32 | unit / 4);
      const size_t chosen = draws[unit % 4] & (units_ - 1);
      std::memcpy(out + at, bytes_.data() + chosen * unit_bytes_,
                  std::min(unit_bytes_, total - at));
    }
  }

 private:
  DType dtype_;
  size_t unit_elements_ = 0, unit_bytes_ = 0, units_ = 0;
  std::vector<std::byte> bytes_;
};

// Writes the tensors of one model, with a pool per (type, deviation).
class SynthWriter {
 public:
  SynthWriter(const SynthOptions& options, std::span<const SynthTensor> tensors, GgufWriter& writer)
      : options_(options), writer_(writer) {
    size_t largest = 256;
    for (const SynthTensor& tensor : tensors) {
      largest = std::max(largest, static_cast<size_t>(element_count(tensor.info.shape)));
    }
    pool_elements_ = std::min(kPoolElementsMax, std::bit_floor(largest));
  }

  Status write(const SynthTensor& tensor, uint64_t index) {
    if (tensor.info.shape.size() == 1)
      return writer_.append(std::as_bytes(std::span(vector_values(tensor, index))));
    const auto [found, inserted] =
        pools_.try_emplace({tensor.info.dtype, tensor.recipe.deviation}, nullptr);
    if (inserted) {
      found->second = std::make_unique<BlockPool>(tensor.info.dtype, tensor.recipe.deviation,
                                                  pool_elements_, options_.seed);
    }
    const BlockPool& pool = *found->second;
    const auto columns = static_cast<size_t>(tensor.info.shape.back());
    const size_t bytes_per_row = row_bytes(tensor.info.dtype, columns);
    return writer_.append_rows(options_.threads, [&](int64_t first, int64_t count, std::byte* out) {
      for (int64_t row = first; row < first + count; ++row, out += bytes_per_row) {
        pool.fill_row(columns, options_.seed, index, static_cast<uint64_t>(row), out);
      }
    });
  }

 private:
  static constexpr size_t kPoolElementsMax = size_t{1} << 20;

  const std::vector<float>& vector_values(const SynthTensor& tensor, uint64_t index) {
    if (!tensor.recipe.fixed.empty()) return tensor.recipe.fixed;
    Random random(philox4x32(options_.seed, index, ~uint64_t{0})[0]);
    vector_.resize(static_cast<size_t>(tensor.info.shape[0]));
    for (float& value : vector_)
      value = tensor.recipe.mean + tensor.recipe.deviation * random.next_normal();
    return vector_;
  }

  const SynthOptions& options_;
  GgufWriter& writer_;
  std::map<std::pair<DType, float>, std::unique_ptr<BlockPool>> pools_;
  std::vector<float> vector_;
  size_t pool_elements_;
};

Result<ModelShape> find_shape(const SynthOptions& options) {
  const std::vector<std::string> names = synth_shape_names();
  const auto found = std::find(names.begin(), names.end(), options.shape);
  if (found == names.end()) {
    const auto near = nearest(options.shape, names);
    return make_error(ErrorCode::kInvalidArgument, "unknown model shape '{}'{}; known: {}",
                      options.shape, near ? fmt::format(" (did you mean '{}'?)", *near) : "",
                      fmt::join(names, ", "));
  }
  ModelShape shape = kShapes[static_cast<size_t>(found - names.begin())];
  const auto apply = [&](const char* what, std::optional<int64_t> wanted, int64_t max,
                         int64_t& value) -> Status {
    if (!wanted) return Status::ok_status();
    if (*wanted < 1 || *wanted > max) {
      return make_error(ErrorCode::kInvalidArgument, "{}: expected 1 to {}, found {}", what, max,
                        *wanted);
    }
    value = *wanted;
    return Status::ok_status();
  };
  QUIPU_RETURN_IF_ERROR(apply("layers", options.layers, 1000, shape.layers));
  QUIPU_RETURN_IF_ERROR(apply("context", options.context, int64_t{1} << 24, shape.context));
  QUIPU_RETURN_IF_ERROR(
      apply("vocabulary", options.vocabulary, int64_t{1} << 22, shape.vocabulary));
  return shape;
}

}  // namespace

std::vector<std::string> synth_shape_names() {
  std::vector<std::string> names;
  for (const ModelShape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

Status synth_model(const SynthOptions& options, const std::filesystem::path& out) {
  QUIPU_CHECK(options.threads >= 1, "{} threads", options.threads);
  QUIPU_ASSIGN_OR_RETURN(const ModelShape shape, find_shape(options));
  const std::vector<SynthTensor> tensors = ModelPlan(shape, options.type).take();
  const Metadata metadata = metadata_of(shape, options);
  std::vector<TensorInfo> infos;
  for (const SynthTensor& tensor : tensors) infos.push_back(tensor.info);
  const uint64_t bytes_total = gguf_file_bytes(metadata.entries(), infos);
  QUIPU_RETURN_IF_ERROR(check_room_for(out, bytes_total));
  QUIPU_ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::create(out, metadata.entries(), infos));
  SynthWriter synth(options, tensors, writer);
  for (size_t i = 0; i < tensors.size(); ++i) {
    QUIPU_RETURN_IF_ERROR(synth.write(tensors[i], i));
    if (!options.progress) continue;
    const WriteProgress progress = {infos[i].name, infos[i].dtype,         infos[i].dtype, i + 1,
                                    infos.size(),  writer.bytes_written(), bytes_total};
    if (!options.progress(progress))
      return make_error(ErrorCode::kCancelled, "{}: stopped; nothing was written", out.string());
  }
  return writer.finish();
}

}  // namespace quipu
