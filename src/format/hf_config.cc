#include "format/hf_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/units.h"
#include "format/json.h"
#include "format/printable.h"

namespace quipu {

namespace {

constexpr JsonLimits kConfigLimits = {.bytes_max = 8 * kMiB, .depth_max = 32};
constexpr int64_t kSizeMax = int64_t{1} << 30;  // of any one dimension
constexpr int64_t kLayersMax = 1 << 16;

// Builds the metadata of one configuration.
class ConfigBuilder {
 public:
  ConfigBuilder(const JsonReader& json, HfConfig& config)
      : json_(json), config_(config), arch_(config.architecture->gguf_name) {}

  Status build() {
    QUIPU_RETURN_IF_ERROR(refuse_quantized());
    switch (config_.architecture->family) {
      case ConfigFamily::kLlama: return build_llama();
      case ConfigFamily::kGpt2: return build_gpt2();
      case ConfigFamily::kGemma: return build_gemma();
      case ConfigFamily::kPhi3: return build_phi3();
      case ConfigFamily::kT5: return build_t5();
    }
    QUIPU_CHECK(false, "configuration family {}", static_cast<int>(config_.architecture->family));
  }

 private:
  void set(std::string_view key, MetadataValue value) {
    config_.metadata.set(fmt::format("{}.{}", arch_, key), std::move(value));
  }
  void set_size(std::string_view key, int64_t value) { set(key, static_cast<uint64_t>(value)); }

  Result<int64_t> require_size(const char* key) const {
    return json_.require_int(key, 1, kSizeMax);
  }
  // A size; without a default the key is required.
  Result<int64_t> size_or(const char* key, std::optional<int64_t> otherwise,
                          int64_t max = kSizeMax) const {
    if (!otherwise) return json_.require_int(key, 1, max);
    QUIPU_ASSIGN_OR_RETURN(const auto value, json_.get_int(key, 1, max));
    return value.value_or(*otherwise);
  }

  template <typename... Args>
  Status unsupported(fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::kUnsupported, "{}: {}", json_.file(),
                      fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  Status corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::kCorruptData, "{}: {}", json_.file(),
                      fmt::format(format, std::forward<Args>(args)...));
  }

  Status refuse_quantized() const {
    QUIPU_ASSIGN_OR_RETURN(const auto quantization, json_.get_object("quantization_config"));
    if (!quantization) return Status::ok_status();
    const auto method = quantization->get_string("quant_method");
    return unsupported(
        "the weights are already quantised ('quantization_config', method '{}'); quipu reads F32, "
        "F16 and BF16 weights "
        "of a Hugging Face directory, or a GGUF file",
        method.ok() && method.value() ? printable(**method) : "unknown");
  }

  Status require_flag(const char* key, bool wanted) const {
    QUIPU_ASSIGN_OR_RETURN(const auto flag, json_.get_bool(key));
    if (!flag || *flag == wanted) return Status::ok_status();
    return unsupported("'{}' is {}; quipu supports {} only", key, *flag, wanted);
  }

  Status require_activation(const char* key, std::initializer_list<std::string_view> known) const {
    QUIPU_ASSIGN_OR_RETURN(const auto name, json_.get_string(key));
    if (!name || std::find(known.begin(), known.end(), *name) != known.end())
      return Status::ok_status();
    return unsupported("activation '{}' ('{}') is not supported; supported: {}", printable(*name),
                       key, fmt::join(known, ", "));
  }

  // What a configuration class means where the file leaves a key out; nothing: required, or as the
  // comment says.
  struct ShapeDefaults {
    int64_t context = 2048;
    std::optional<int64_t> hidden, inner, layers, heads;
    std::optional<int64_t> heads_kv;  // nothing: as many as heads
    std::optional<int64_t> head_dim;  // nothing: hidden / heads
  };
  struct Sizes {
    int64_t context = 0, head_dim = 0;
  };

  Status build_llama();
  Status build_gpt2();
  Status build_t5();
  Status build_gemma();
  Status build_phi3();
  Result<Sizes> read_sizes(const ShapeDefaults& defaults);
  Status read_heads(const ShapeDefaults& defaults);
  Status read_window();
  Status read_gemma_windows();
  Status read_soft_caps();
  Status read_rope(const Sizes& sizes, int64_t dims, double theta_default = 1e4);
  Status read_local_rope();
  Status read_yarn(const JsonReader& scaling, double factor);
  Status read_longrope(const JsonReader& scaling, const Sizes& sizes, int64_t dims);
  Status read_llama3(const JsonReader& scaling, double factor, double theta, const Sizes& sizes);
  Status read_tied(std::optional<int64_t> vocabulary_default = {});

  const JsonReader& json_;
  HfConfig& config_;
  std::string_view arch_;
};

Status ConfigBuilder::read_tied(std::optional<int64_t> vocabulary_default) {
  QUIPU_ASSIGN_OR_RETURN(const auto tied, json_.get_bool("tie_word_embeddings"));
  config_.tied_embeddings = tied.value_or(config_.architecture->tied_by_default);
  QUIPU_ASSIGN_OR_RETURN(const int64_t vocabulary, size_or("vocab_size", vocabulary_default));
  set_size("vocab_size", vocabulary);
  return Status::ok_status();
}

Status ConfigBuilder::read_heads(const ShapeDefaults& defaults) {
  QUIPU_ASSIGN_OR_RETURN(config_.head_count, size_or("num_attention_heads", defaults.heads));
  QUIPU_ASSIGN_OR_RETURN(
      config_.head_count_kv,
      size_or("num_key_value_heads", defaults.heads_kv.value_or(config_.head_count)));
  if (config_.head_count % config_.head_count_kv != 0) {
    return corrupt("'num_attention_heads' {} is not a multiple of 'num_key_value_heads' {}",
                   config_.head_count, config_.head_count_kv);
  }
  set_size("attention.head_count", config_.head_count);
  set_size("attention.head_count_kv", config_.head_count_kv);
  return Status::ok_status();
}

// Sizes, heads and norms: what every family of Llama's descendants writes under the same keys.
Result<ConfigBuilder::Sizes> ConfigBuilder::read_sizes(const ShapeDefaults& defaults) {
  Sizes sizes;
  QUIPU_ASSIGN_OR_RETURN(sizes.context, size_or("max_position_embeddings", defaults.context));
  QUIPU_ASSIGN_OR_RETURN(const int64_t hidden, size_or("hidden_size", defaults.hidden));
  QUIPU_ASSIGN_OR_RETURN(const int64_t inner, size_or("intermediate_size", defaults.inner));
  QUIPU_ASSIGN_OR_RETURN(config_.block_count,
                         size_or("num_hidden_layers", defaults.layers, kLayersMax));
  set_size("context_length", sizes.context);
  set_size("embedding_length", hidden);
  set_size("block_count", config_.block_count);
  set_size("feed_forward_length", inner);
  QUIPU_RETURN_IF_ERROR(read_heads(defaults));
  // Qwen3's and Gemma's configuration classes have a head size of their own; the others divide.
  QUIPU_ASSIGN_OR_RETURN(auto head_dim, json_.get_int("head_dim", 1, kSizeMax));
  if (!head_dim) head_dim = defaults.head_dim;
  if (!head_dim && hidden % config_.head_count != 0) {
    return corrupt(
        "'hidden_size' {} is not a multiple of 'num_attention_heads' {}, and 'head_dim' is absent",
        hidden, config_.head_count);
  }
  sizes.head_dim = head_dim.value_or(hidden / config_.head_count);
  set_size("attention.key_length", sizes.head_dim);
  set_size("attention.value_length", sizes.head_dim);
  QUIPU_ASSIGN_OR_RETURN(const auto epsilon, json_.get_number("rms_norm_eps"));
  set("attention.layer_norm_rms_epsilon",
      epsilon.value_or(config_.architecture->rms_epsilon_default));
  return sizes;
}

Status ConfigBuilder::build_llama() {
  QUIPU_RETURN_IF_ERROR(require_activation("hidden_act", {"silu", "swish"}));
  ShapeDefaults defaults;
  if (arch_ == "qwen3") defaults.head_dim = 128;
  QUIPU_ASSIGN_OR_RETURN(const Sizes sizes, read_sizes(defaults));
  QUIPU_RETURN_IF_ERROR(read_window());
  QUIPU_RETURN_IF_ERROR(read_rope(sizes, sizes.head_dim));
  return read_tied();
}

Status ConfigBuilder::build_phi3() {
  QUIPU_RETURN_IF_ERROR(require_activation("hidden_act", {"silu", "swish"}));
  QUIPU_ASSIGN_OR_RETURN(const Sizes sizes, read_sizes({.context = 4096}));
  QUIPU_RETURN_IF_ERROR(read_window());
  // Phi-4-mini rotates three quarters of each head.
  QUIPU_ASSIGN_OR_RETURN(const auto rope, json_.get_object("rope_parameters"));
  QUIPU_ASSIGN_OR_RETURN(auto partial, json_.get_number("partial_rotary_factor"));
  if (rope) {
    QUIPU_ASSIGN_OR_RETURN(const auto nested, rope->get_number("partial_rotary_factor"));
    if (nested) partial = nested;
  }
  const double share = partial.value_or(1.0);
  const auto dims = share > 0 && share <= 1
                        ? static_cast<int64_t>(static_cast<double>(sizes.head_dim) * share)
                        : int64_t{0};
  if (dims < 2 || dims % 2 != 0) {
    return corrupt(
        "'partial_rotary_factor' {} of a head of {} is {} elements; expected an even number of at "
        "least 2",
        share, sizes.head_dim, dims);
  }
  QUIPU_RETURN_IF_ERROR(read_rope(sizes, dims));
  return read_tied();
}

// SOURCE for the defaults: transformers' Gemma2Config and Gemma3TextConfig; published
// configurations leave out what equals them.
Status ConfigBuilder::build_gemma() {
  const bool third = arch_ == "gemma3";
  QUIPU_RETURN_IF_ERROR(require_activation("hidden_activation", {"gelu_pytorch_tanh"}));
  QUIPU_RETURN_IF_ERROR(require_flag("use_bidirectional_attention", false));
  QUIPU_ASSIGN_OR_RETURN(const Sizes sizes, read_sizes({.context = third ? 131072 : 8192,
                                                        .hidden = 2304,
                                                        .inner = 9216,
                                                        .layers = 26,
                                                        .heads = 8,
                                                        .heads_kv = 4,
                                                        .head_dim = 256}));
  QUIPU_ASSIGN_OR_RETURN(const auto scalar, json_.get_number("query_pre_attn_scalar"));
  const double divisor = scalar.value_or(256);
  if (!(divisor > 0) || !std::isfinite(divisor))
    return corrupt("'query_pre_attn_scalar': expected a positive number, found {}", divisor);
  if (divisor != static_cast<double>(sizes.head_dim))
    set("attention.scale", 1 / std::sqrt(divisor));
  QUIPU_RETURN_IF_ERROR(read_soft_caps());
  QUIPU_RETURN_IF_ERROR(read_gemma_windows());
  QUIPU_RETURN_IF_ERROR(read_rope(sizes, sizes.head_dim, third ? 1e6 : 1e4));
  if (third) QUIPU_RETURN_IF_ERROR(read_local_rope());
  return read_tied(third ? 262208 : 256000);
}

// Gemma 2 has both caps, Gemma 3 usually none.
Status ConfigBuilder::read_soft_caps() {
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    QUIPU_ASSIGN_OR_RETURN(const auto cap, json_.get_number(key));
    if (cap && (!(*cap > 0) || !std::isfinite(*cap)))
      return corrupt("'{}': expected a positive number, found {}", key, *cap);
    if (arch_ == "gemma2" && json_.is_null(key))
      return unsupported("'{}' is null; quipu runs Gemma 2 with its soft caps only", key);
    if (arch_ == "gemma3" && cap && key[0] == 'a')
      return unsupported("'{}' is {}; quipu runs Gemma 3 without it only", key, *cap);
    if (cap) set(key, *cap);
  }
  return Status::ok_status();
}

// Every second layer of Gemma 2 and every sixth of Gemma 3 sees everything, unless the
// configuration lists the layers or gives another period.
Status ConfigBuilder::read_gemma_windows() {
  const int64_t period_default = arch_ == "gemma2" ? 2 : 6;
  constexpr int64_t kWindowDefault = 4096;
  QUIPU_ASSIGN_OR_RETURN(const int64_t window, size_or("sliding_window", kWindowDefault));
  set_size("attention.sliding_window", window);
  QUIPU_ASSIGN_OR_RETURN(const int64_t period, size_or("sliding_window_pattern", period_default));
  QUIPU_ASSIGN_OR_RETURN(const auto types, json_.get_strings("layer_types"));
  if (types && static_cast<int64_t>(types->size()) != config_.block_count) {
    return corrupt("'layer_types' has {} entries for {} layers", types->size(),
                   config_.block_count);
  }
  std::vector<bool> windowed, usual;  // per layer, as GGUF's key may be
  for (int64_t layer = 0; layer < config_.block_count; ++layer) {
    usual.push_back((layer + 1) % period_default != 0);
    windowed.push_back((layer + 1) % period != 0);
    if (!types) continue;
    const std::string& type = (*types)[static_cast<size_t>(layer)];
    if (type != "sliding_attention" && type != "full_attention") {
      return unsupported("'layer_types' has '{}'; supported: sliding_attention and full_attention",
                         printable(type));
    }
    windowed.back() = type == "sliding_attention";
  }
  if (windowed != usual) set("attention.sliding_window_pattern", std::move(windowed));
  return Status::ok_status();
}

// The rope of Gemma 3's windowed layers: rope_local_base_freq, in transformers 5 a part of
// rope_parameters.
Status ConfigBuilder::read_local_rope() {
  QUIPU_ASSIGN_OR_RETURN(auto theta, json_.get_number("rope_local_base_freq"));
  QUIPU_ASSIGN_OR_RETURN(const auto parameters, json_.get_object("rope_parameters"));
  if (parameters) {
    QUIPU_ASSIGN_OR_RETURN(const auto local, parameters->get_object("sliding_attention"));
    if (local) {
      QUIPU_ASSIGN_OR_RETURN(const auto nested, local->get_number("rope_theta"));
      if (nested) theta = nested;
      QUIPU_ASSIGN_OR_RETURN(const auto type, local->get_string("rope_type"));
      if (type && *type != "default")
        return unsupported("rope scaling '{}' of windowed layers is not supported",
                           printable(*type));
    }
  }
  constexpr double kLocalBase = 10000;  // what GGUF means where it has no key
  const double base = theta.value_or(kLocalBase);
  if (!(base > 0.0) || !std::isfinite(base))
    return corrupt("'rope_local_base_freq': expected a positive number, found {}", base);
  if (base != kLocalBase) set("rope.freq_base_swa", base);
  return Status::ok_status();
}

// The window matters only where the configuration switches it on, and for Qwen only in the layers
// from max_window_layers on.
Status ConfigBuilder::read_window() {
  QUIPU_ASSIGN_OR_RETURN(const auto window, json_.get_int("sliding_window", 0, INT64_MAX));
  QUIPU_ASSIGN_OR_RETURN(const auto enabled, json_.get_bool("use_sliding_window"));
  const std::string_view model_type = config_.architecture->model_type;
  const bool on = enabled.value_or(model_type == "mistral" || model_type == "phi3");
  if (!window || *window == 0 || !on) return Status::ok_status();
  QUIPU_ASSIGN_OR_RETURN(const auto full_layers, json_.get_int("max_window_layers", 0, kSizeMax));
  constexpr int64_t kQwenFullLayers = 28;  // where the configuration does not say
  const bool every_layer = arch_ == "llama" || arch_ == "phi3";
  const int64_t first_windowed = every_layer ? 0 : full_layers.value_or(kQwenFullLayers);
  if (first_windowed >= config_.block_count) return Status::ok_status();
  set_size("attention.sliding_window", *window);
  if (first_windowed == 0) return Status::ok_status();
  std::vector<bool> windowed;  // per layer, as GGUF's key may be
  for (int64_t layer = 0; layer < config_.block_count; ++layer) {
    windowed.push_back(layer >= first_windowed);
  }
  set("attention.sliding_window_pattern", std::move(windowed));
  return Status::ok_status();
}

// Transformers 4 writes rope_theta and rope_scaling {type or rope_type}; 5 writes rope_parameters,
// with a part for each kind of layer where there are several.
Status ConfigBuilder::read_rope(const Sizes& sizes, int64_t dims, double theta_default) {
  set_size("rope.dimension_count", dims);
  QUIPU_ASSIGN_OR_RETURN(auto theta, json_.get_number("rope_theta"));
  QUIPU_ASSIGN_OR_RETURN(auto scaling, json_.get_object("rope_parameters"));
  if (scaling) {
    QUIPU_ASSIGN_OR_RETURN(const auto full, scaling->get_object("full_attention"));
    if (full) scaling = full;
    QUIPU_ASSIGN_OR_RETURN(const auto nested_theta, scaling->get_number("rope_theta"));
    if (nested_theta) theta = nested_theta;
  } else {
    QUIPU_ASSIGN_OR_RETURN(scaling, json_.get_object("rope_scaling"));
  }
  const JsonReader* const nested = scaling ? &*scaling : &json_;
  for (const JsonReader* reader : {&json_, nested}) {
    if (arch_ == "phi3") continue;  // build_phi3() has read it
    QUIPU_ASSIGN_OR_RETURN(const auto partial, reader->get_number("partial_rotary_factor"));
    if (partial && *partial != 1.0)
      return unsupported("'partial_rotary_factor' is {}; quipu supports 1 only", *partial);
  }
  const double base = theta.value_or(theta_default);
  if (!(base > 0.0) || !std::isfinite(base))
    return corrupt("'rope_theta': expected a positive number, found {}", base);
  set("rope.freq_base", base);
  if (!scaling) return Status::ok_status();
  QUIPU_ASSIGN_OR_RETURN(const auto rope_type, scaling->get_string("rope_type"));
  QUIPU_ASSIGN_OR_RETURN(const auto old_type, scaling->get_string("type"));
  const std::string type = rope_type.value_or(old_type.value_or("default"));
  if (type == "default") return Status::ok_status();
  // Phi-3's first files call LongRoPE "su" or, confusingly, "yarn".
  if (arch_ == "phi3" && (type == "longrope" || type == "su" || type == "yarn"))
    return read_longrope(*scaling, sizes, dims);
  if (arch_ == "phi3" || (type != "linear" && type != "llama3" && type != "yarn")) {
    return unsupported("rope scaling '{}' is not supported; supported: {}", printable(type),
                       arch_ == "phi3" ? "default, longrope" : "default, linear, llama3, yarn");
  }
  QUIPU_ASSIGN_OR_RETURN(const auto factor, scaling->get_number("factor"));
  constexpr double kFactorMin = 1e-3, kFactorMax = 1e6;
  if (!factor || !(*factor >= kFactorMin && *factor <= kFactorMax)) {
    return corrupt("rope scaling '{}' needs a 'factor' from {} to {}, found {}", type, kFactorMin,
                   kFactorMax, factor ? fmt::format("{}", *factor) : "none");
  }
  if (type == "llama3") return read_llama3(*scaling, *factor, base, sizes);
  set("rope.scaling.type", type);
  set("rope.scaling.factor", *factor);
  return type == "yarn" ? read_yarn(*scaling, *factor) : Status::ok_status();
}

// SOURCE: Ding et al., "LongRoPE", and transformers' parameters.
Status ConfigBuilder::read_longrope(const JsonReader& scaling, const Sizes& sizes, int64_t dims) {
  constexpr int64_t kOriginalDefault = 4096;  // of transformers' Phi3Config
  QUIPU_ASSIGN_OR_RETURN(auto original,
                         json_.get_int("original_max_position_embeddings", 2, kSizeMax));
  if (!original) {
    QUIPU_ASSIGN_OR_RETURN(original,
                           scaling.get_int("original_max_position_embeddings", 2, kSizeMax));
  }
  const int64_t original_context = original.value_or(kOriginalDefault);
  set_size("rope.scaling.original_context_length", original_context);
  for (const auto& [key, gguf_name] : {std::pair{"long_factor", "rope_factors_long.weight"},
                                       std::pair{"short_factor", "rope_factors_short.weight"}}) {
    QUIPU_ASSIGN_OR_RETURN(const auto factors, scaling.get_numbers(key));
    if (!factors || static_cast<int64_t>(factors->size()) != dims / 2) {
      return corrupt(
          "rope scaling 'longrope' needs a '{}' of {} numbers, one for each rotated "
          "pair, found {}",
          key, dims / 2, factors ? fmt::format("{}", factors->size()) : "none");
    }
    RopeFactors tensor{gguf_name, {}};
    for (const double factor : *factors) {
      const auto value = static_cast<float>(factor);
      if (!(value > 0) || !std::isfinite(value))
        return corrupt("'{}' has {}; expected positive numbers", key, factor);
      tensor.values.push_back(value);
    }
    config_.rope_factors.push_back(std::move(tensor));
  }
  QUIPU_ASSIGN_OR_RETURN(const auto given_stretch, scaling.get_number("factor"));
  const double stretch = given_stretch.value_or(static_cast<double>(sizes.context) /
                                                static_cast<double>(original_context));
  QUIPU_ASSIGN_OR_RETURN(const auto attention_factor, scaling.get_number("attention_factor"));
  const double own =
      stretch > 1
          ? std::sqrt(1 + std::log(stretch) / std::log(static_cast<double>(original_context)))
          : 1;
  const double total = attention_factor.value_or(own);
  if (!(total > 0) || !std::isfinite(total))
    return corrupt("longrope's attention factor is {}; expected a positive number", total);
  if (total != 1) set("rope.scaling.attn_factor", total);
  return Status::ok_status();
}

// SOURCE: Peng et al., "YaRN: efficient context window extension", and transformers' parameters.
Status ConfigBuilder::read_yarn(const JsonReader& scaling, double factor) {
  QUIPU_ASSIGN_OR_RETURN(const auto original,
                         scaling.get_int("original_max_position_embeddings", 1, kSizeMax));
  if (original) set_size("rope.scaling.original_context_length", *original);
  QUIPU_ASSIGN_OR_RETURN(const auto beta_fast, scaling.get_number("beta_fast"));
  if (beta_fast) set("rope.scaling.yarn_beta_fast", *beta_fast);
  QUIPU_ASSIGN_OR_RETURN(const auto beta_slow, scaling.get_number("beta_slow"));
  if (beta_slow) set("rope.scaling.yarn_beta_slow", *beta_slow);
  QUIPU_ASSIGN_OR_RETURN(const auto truncate, scaling.get_bool("truncate"));
  if (!truncate.value_or(true)) {
    return unsupported("rope scaling 'yarn' with \"truncate\": false is not supported; true is");
  }
  // The configuration's factor is the whole scale of the rotated vectors; GGUF's multiplies YaRN's
  // own 1 + 0.1 ln(factor).
  QUIPU_ASSIGN_OR_RETURN(const auto attention_factor, scaling.get_number("attention_factor"));
  QUIPU_ASSIGN_OR_RETURN(const auto mscale, scaling.get_number("mscale"));
  QUIPU_ASSIGN_OR_RETURN(const auto mscale_all_dim, scaling.get_number("mscale_all_dim"));
  const double own = factor > 1.0 ? 0.1 * std::log(factor) + 1.0 : 1.0;
  const auto scaled = [&](double m) {
    return factor > 1.0 ? 0.1 * m * std::log(factor) + 1.0 : 1.0;
  };
  double total = own;
  if (mscale && mscale_all_dim && *mscale != 0 && *mscale_all_dim != 0)
    total = scaled(*mscale) / scaled(*mscale_all_dim);
  if (attention_factor) total = *attention_factor;
  if (!(total > 0.0) || !std::isfinite(total))
    return corrupt("yarn's attention factor is {}; expected a positive number", total);
  if (total != own) set("rope.scaling.attn_factor", total / own);
  return Status::ok_status();
}

Status ConfigBuilder::read_llama3(const JsonReader& scaling, double factor, double theta,
                                  const Sizes& sizes) {
  const int64_t head_dim = sizes.head_dim;
  QUIPU_ASSIGN_OR_RETURN(const auto low, scaling.get_number("low_freq_factor"));
  QUIPU_ASSIGN_OR_RETURN(const auto high, scaling.get_number("high_freq_factor"));
  QUIPU_ASSIGN_OR_RETURN(const auto original,
                         scaling.get_int("original_max_position_embeddings", 1, kSizeMax));
  const double low_factor = low.value_or(1.0), high_factor = high.value_or(4.0);
  if (!(low_factor > 0.0) || !(high_factor > low_factor)) {
    return corrupt(
        "rope scaling 'llama3' needs 0 < low_freq_factor < high_freq_factor, found {} and {}",
        low_factor, high_factor);
  }
  constexpr int64_t kHeadDimMax = 8192;
  if (head_dim % 2 != 0 || head_dim > kHeadDimMax) {
    return corrupt("rope needs an even head size of at most {}, found {}", kHeadDimMax, head_dim);
  }
  config_.rope_factors.push_back(
      {"rope_freqs.weight",
       llama3_rope_factors(
           {theta, factor, low_factor, high_factor, original.value_or(sizes.context)}, head_dim)});
  return Status::ok_status();
}

Status ConfigBuilder::build_gpt2() {
  QUIPU_RETURN_IF_ERROR(
      require_activation("activation_function", {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"}));
  QUIPU_RETURN_IF_ERROR(require_flag("scale_attn_weights", true));
  QUIPU_RETURN_IF_ERROR(require_flag("scale_attn_by_inverse_layer_idx", false));
  QUIPU_RETURN_IF_ERROR(require_flag("add_cross_attention", false));
  QUIPU_RETURN_IF_ERROR(require_flag("multi_query", true));
  QUIPU_ASSIGN_OR_RETURN(const auto context, json_.get_int("n_positions", 1, kSizeMax));
  QUIPU_ASSIGN_OR_RETURN(const int64_t older_context, size_or("n_ctx", 1024));
  QUIPU_ASSIGN_OR_RETURN(const int64_t hidden, require_size("n_embd"));
  QUIPU_ASSIGN_OR_RETURN(const int64_t inner, size_or("n_inner", 4 * hidden));
  QUIPU_ASSIGN_OR_RETURN(config_.block_count, json_.require_int("n_layer", 1, kLayersMax));
  QUIPU_ASSIGN_OR_RETURN(config_.head_count, require_size("n_head"));
  if (hidden % config_.head_count != 0) {
    return corrupt("'n_embd' {} is not a multiple of 'n_head' {}", hidden, config_.head_count);
  }
  config_.head_count_kv = arch_ == "starcoder" ? 1 : config_.head_count;
  set_size("context_length", context.value_or(older_context));
  set_size("embedding_length", hidden);
  set_size("block_count", config_.block_count);
  set_size("feed_forward_length", inner);
  set_size("attention.head_count", config_.head_count);
  set_size("attention.head_count_kv", config_.head_count_kv);
  QUIPU_ASSIGN_OR_RETURN(const auto epsilon, json_.get_number("layer_norm_epsilon"));
  set("attention.layer_norm_epsilon", epsilon.value_or(1e-5));
  return read_tied();
}

Status ConfigBuilder::build_t5() {
  QUIPU_ASSIGN_OR_RETURN(const auto feed_forward, json_.get_string("feed_forward_proj"));
  if (feed_forward && *feed_forward != "relu" && *feed_forward != "gated-gelu") {
    return unsupported("'feed_forward_proj' is '{}'; quipu supports relu and gated-gelu",
                       printable(*feed_forward));
  }
  QUIPU_ASSIGN_OR_RETURN(const int64_t encoder_layers,
                         json_.require_int("num_layers", 1, kLayersMax));
  QUIPU_ASSIGN_OR_RETURN(const auto decoder_layers,
                         json_.get_int("num_decoder_layers", 1, kLayersMax));
  QUIPU_ASSIGN_OR_RETURN(const int64_t hidden, require_size("d_model"));
  QUIPU_ASSIGN_OR_RETURN(const int64_t inner, require_size("d_ff"));
  QUIPU_ASSIGN_OR_RETURN(const int64_t head_dim, require_size("d_kv"));
  QUIPU_ASSIGN_OR_RETURN(config_.head_count, require_size("num_heads"));
  QUIPU_ASSIGN_OR_RETURN(const int64_t context, size_or("n_positions", 512));
  QUIPU_ASSIGN_OR_RETURN(const int64_t buckets, size_or("relative_attention_num_buckets", 32));
  QUIPU_ASSIGN_OR_RETURN(const int64_t distance, size_or("relative_attention_max_distance", 128));
  QUIPU_ASSIGN_OR_RETURN(const auto start, json_.get_int("decoder_start_token_id", 0, INT32_MAX));
  QUIPU_ASSIGN_OR_RETURN(const auto padding, json_.get_int("pad_token_id", 0, INT32_MAX));
  QUIPU_ASSIGN_OR_RETURN(const auto epsilon, json_.get_number("layer_norm_epsilon"));
  config_.head_count_kv = config_.head_count;
  config_.block_count = std::max(encoder_layers, decoder_layers.value_or(encoder_layers));
  set_size("context_length", context);
  set_size("embedding_length", hidden);
  set_size("block_count", encoder_layers);
  set_size("decoder_block_count", decoder_layers.value_or(encoder_layers));
  set_size("feed_forward_length", inner);
  set_size("attention.head_count", config_.head_count);
  set_size("attention.key_length", head_dim);
  set_size("attention.value_length", head_dim);
  set_size("attention.relative_buckets_count", buckets);
  // Not one of GGUF's keys: other readers take it to be 128.
  if (distance != 128) set_size("attention.relative_max_distance", distance);
  set_size("decoder_start_token_id", start.value_or(padding.value_or(0)));
  const double norm_epsilon = epsilon.value_or(config_.architecture->rms_epsilon_default);
  set("attention.layer_norm_epsilon", norm_epsilon);
  set("attention.layer_norm_rms_epsilon", norm_epsilon);
  return read_tied();
}

// Special tokens and sampling defaults, where the files say them. generation_config.json wins.
Status read_tokens(const JsonReader& json, Metadata& metadata) {
  constexpr int64_t kTokenMax = INT32_MAX;
  QUIPU_ASSIGN_OR_RETURN(const auto bos, json.get_int_or_ints("bos_token_id", -1, kTokenMax));
  QUIPU_ASSIGN_OR_RETURN(const auto eos, json.get_int_or_ints("eos_token_id", -1, kTokenMax));
  QUIPU_ASSIGN_OR_RETURN(const auto padding, json.get_int_or_ints("pad_token_id", -1, kTokenMax));
  const auto set_first = [&](const char* key, const std::vector<int64_t>& ids) {
    if (!ids.empty() && ids[0] >= 0) metadata.set(key, static_cast<uint64_t>(ids[0]));
  };
  set_first("tokenizer.ggml.bos_token_id", bos);
  set_first("tokenizer.ggml.eos_token_id", eos);
  set_first("tokenizer.ggml.padding_token_id", padding);
  if (eos.size() > 1) metadata.set("tokenizer.ggml.eos_token_ids", eos);
  return Status::ok_status();
}

Status read_generation(const JsonReader& json, Metadata& metadata) {
  QUIPU_RETURN_IF_ERROR(read_tokens(json, metadata));
  QUIPU_ASSIGN_OR_RETURN(const auto sample, json.get_bool("do_sample"));
  if (!sample.value_or(false)) return Status::ok_status();  // the other settings do not apply then
  for (const auto& [from, to] :
       {std::pair{"temperature", "general.sampling.temp"},
        std::pair{"top_p", "general.sampling.top_p"}, std::pair{"min_p", "general.sampling.min_p"},
        std::pair{"repetition_penalty", "general.sampling.penalty_repeat"}}) {
    QUIPU_ASSIGN_OR_RETURN(const auto value, json.get_number(from));
    if (value) metadata.set(to, *value);
  }
  QUIPU_ASSIGN_OR_RETURN(const auto top_k, json.get_int("top_k", 0, INT32_MAX));
  if (top_k) metadata.set("general.sampling.top_k", *top_k);
  return Status::ok_status();
}

}  // namespace

std::vector<float> llama3_rope_factors(const Llama3Rope& rope, int64_t head_dim) {
  std::vector<float> divisors;
  for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
    const double frequency =
        std::pow(rope.theta, -2.0 * static_cast<double>(pair) / static_cast<double>(head_dim));
    // Full turns that the pair makes over the original context.
    const double turns =
        static_cast<double>(rope.original_context) * frequency / (2.0 * std::numbers::pi);
    double divisor = 1.0;
    if (turns < rope.low_freq_factor) {
      divisor = rope.factor;
    } else if (turns <= rope.high_freq_factor) {
      const double smooth =
          (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      divisor = 1.0 / ((1.0 - smooth) / rope.factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

Result<HfConfig> parse_hf_config(std::string_view config, std::string_view config_file,
                                 std::string_view generation, std::string_view generation_file,
                                 std::string_view name) {
  QUIPU_ASSIGN_OR_RETURN(const Json json, parse_json_object(config, config_file, kConfigLimits));
  const JsonReader reader(json, std::string(config_file));
  QUIPU_ASSIGN_OR_RETURN(const auto model_type, reader.get_string("model_type"));
  if (!model_type) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: 'model_type' is missing (expected the architecture's name)",
                      config_file);
  }
  HfConfig result;
  QUIPU_ASSIGN_OR_RETURN(result.architecture, find_hf_architecture(*model_type, config_file));
  result.metadata.set("general.architecture", std::string(result.architecture->gguf_name));
  if (!name.empty()) result.metadata.set("general.name", std::string(name));
  // A model of several modalities holds its text part's configuration as an object.
  const bool several = !result.architecture->ignored_parts.empty();
  QUIPU_ASSIGN_OR_RETURN(const auto text, reader.get_object(several ? "text_config" : ""));
  QUIPU_RETURN_IF_ERROR(ConfigBuilder(text ? *text : reader, result).build());
  QUIPU_RETURN_IF_ERROR(read_tokens(reader, result.metadata));
  if (generation.empty()) return result;
  QUIPU_ASSIGN_OR_RETURN(const Json generation_json,
                         parse_json_object(generation, generation_file, kConfigLimits));
  QUIPU_RETURN_IF_ERROR(
      read_generation(JsonReader(generation_json, std::string(generation_file)), result.metadata));
  return result;
}

}  // namespace quipu
