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
    if (config_.architecture->family == ConfigFamily::kLlama) return build_llama();
    if (config_.architecture->family == ConfigFamily::kT5) return build_t5();
    return build_gpt2();
  }

 private:
  void set(std::string_view key, MetadataValue value) {
    config_.metadata.set(fmt::format("{}.{}", arch_, key), std::move(value));
  }
  void set_size(std::string_view key, int64_t value) { set(key, static_cast<uint64_t>(value)); }

  Result<int64_t> require_size(const char* key) const {
    return json_.require_int(key, 1, kSizeMax);
  }
  Result<int64_t> size_or(const char* key, int64_t otherwise) const {
    QUIPU_ASSIGN_OR_RETURN(const auto value, json_.get_int(key, 1, kSizeMax));
    return value.value_or(otherwise);
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

  Status build_llama();
  Status read_heads();
  Status read_window();
  Status read_rope(int64_t head_dim, int64_t context);
  Status read_yarn(const JsonReader& scaling, double factor);
  Status read_llama3(const JsonReader& scaling, double factor, double theta, int64_t head_dim,
                     int64_t context);
  Status build_gpt2();
  Status build_t5();
  Status read_tied();

  const JsonReader& json_;
  HfConfig& config_;
  std::string_view arch_;
};

Status ConfigBuilder::read_tied() {
  QUIPU_ASSIGN_OR_RETURN(const auto tied, json_.get_bool("tie_word_embeddings"));
  config_.tied_embeddings = tied.value_or(config_.architecture->tied_by_default);
  QUIPU_ASSIGN_OR_RETURN(const int64_t vocabulary, require_size("vocab_size"));
  set_size("vocab_size", vocabulary);
  return Status::ok_status();
}

Status ConfigBuilder::read_heads() {
  QUIPU_ASSIGN_OR_RETURN(config_.head_count, require_size("num_attention_heads"));
  QUIPU_ASSIGN_OR_RETURN(config_.head_count_kv, size_or("num_key_value_heads", config_.head_count));
  if (config_.head_count % config_.head_count_kv != 0) {
    return corrupt("'num_attention_heads' {} is not a multiple of 'num_key_value_heads' {}",
                   config_.head_count, config_.head_count_kv);
  }
  set_size("attention.head_count", config_.head_count);
  set_size("attention.head_count_kv", config_.head_count_kv);
  return Status::ok_status();
}

Status ConfigBuilder::build_llama() {
  QUIPU_RETURN_IF_ERROR(require_activation("hidden_act", {"silu", "swish"}));
  QUIPU_ASSIGN_OR_RETURN(const int64_t context, size_or("max_position_embeddings", 2048));
  QUIPU_ASSIGN_OR_RETURN(const int64_t hidden, require_size("hidden_size"));
  QUIPU_ASSIGN_OR_RETURN(const int64_t inner, require_size("intermediate_size"));
  QUIPU_ASSIGN_OR_RETURN(config_.block_count,
                         json_.require_int("num_hidden_layers", 1, kLayersMax));
  set_size("context_length", context);
  set_size("embedding_length", hidden);
  set_size("block_count", config_.block_count);
  set_size("feed_forward_length", inner);
  QUIPU_RETURN_IF_ERROR(read_heads());
  // Qwen3's configuration class has a head size of its own; the others divide.
  QUIPU_ASSIGN_OR_RETURN(const auto given_head_dim, json_.get_int("head_dim", 1, kSizeMax));
  if (!given_head_dim && arch_ != "qwen3" && hidden % config_.head_count != 0) {
    return corrupt(
        "'hidden_size' {} is not a multiple of 'num_attention_heads' {}, and 'head_dim' is absent",
        hidden, config_.head_count);
  }
  constexpr int64_t kQwen3HeadDim = 128;
  const int64_t head_dim =
      given_head_dim.value_or(arch_ == "qwen3" ? kQwen3HeadDim : hidden / config_.head_count);
  set_size("attention.key_length", head_dim);
  set_size("attention.value_length", head_dim);
  set_size("rope.dimension_count", head_dim);
  QUIPU_ASSIGN_OR_RETURN(const auto epsilon, json_.get_number("rms_norm_eps"));
  set("attention.layer_norm_rms_epsilon",
      epsilon.value_or(config_.architecture->rms_epsilon_default));
  QUIPU_RETURN_IF_ERROR(read_window());
  QUIPU_RETURN_IF_ERROR(read_rope(head_dim, context));
  return read_tied();
}

// The window matters only where the configuration switches it on, and for Qwen only in the layers
// from max_window_layers on.
Status ConfigBuilder::read_window() {
  QUIPU_ASSIGN_OR_RETURN(const auto window, json_.get_int("sliding_window", 0, INT64_MAX));
  QUIPU_ASSIGN_OR_RETURN(const auto enabled, json_.get_bool("use_sliding_window"));
  const bool on = enabled.value_or(config_.architecture->model_type == "mistral");
  if (!window || *window == 0 || !on) return Status::ok_status();
  QUIPU_ASSIGN_OR_RETURN(const auto full_layers, json_.get_int("max_window_layers", 0, kSizeMax));
  constexpr int64_t kQwenFullLayers = 28;  // where the configuration does not say
  const int64_t first_windowed = arch_ == "llama" ? 0 : full_layers.value_or(kQwenFullLayers);
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

// Transformers 4 writes rope_theta and rope_scaling {type or rope_type}; 5 writes rope_parameters.
Status ConfigBuilder::read_rope(int64_t head_dim, int64_t context) {
  QUIPU_ASSIGN_OR_RETURN(const auto partial, json_.get_number("partial_rotary_factor"));
  if (partial && *partial != 1.0)
    return unsupported("'partial_rotary_factor' is {}; quipu supports 1 only", *partial);
  QUIPU_ASSIGN_OR_RETURN(auto theta, json_.get_number("rope_theta"));
  QUIPU_ASSIGN_OR_RETURN(auto scaling, json_.get_object("rope_parameters"));
  if (scaling) {
    QUIPU_ASSIGN_OR_RETURN(const auto nested_theta, scaling->get_number("rope_theta"));
    if (nested_theta) theta = nested_theta;
  } else {
    QUIPU_ASSIGN_OR_RETURN(scaling, json_.get_object("rope_scaling"));
  }
  const double base = theta.value_or(10000.0);
  if (!(base > 0.0) || !std::isfinite(base))
    return corrupt("'rope_theta': expected a positive number, found {}", base);
  set("rope.freq_base", base);
  if (!scaling) return Status::ok_status();
  QUIPU_ASSIGN_OR_RETURN(const auto rope_type, scaling->get_string("rope_type"));
  QUIPU_ASSIGN_OR_RETURN(const auto old_type, scaling->get_string("type"));
  const std::string type = rope_type.value_or(old_type.value_or("default"));
  if (type == "default") return Status::ok_status();
  if (type != "linear" && type != "llama3" && type != "yarn") {
    return unsupported(
        "rope scaling '{}' is not supported; supported: default, linear, llama3, yarn",
        printable(type));
  }
  QUIPU_ASSIGN_OR_RETURN(const auto factor, scaling->get_number("factor"));
  constexpr double kFactorMin = 1e-3, kFactorMax = 1e6;
  if (!factor || !(*factor >= kFactorMin && *factor <= kFactorMax)) {
    return corrupt("rope scaling '{}' needs a 'factor' from {} to {}, found {}", type, kFactorMin,
                   kFactorMax, factor ? fmt::format("{}", *factor) : "none");
  }
  if (type == "llama3") return read_llama3(*scaling, *factor, base, head_dim, context);
  set("rope.scaling.type", type);
  set("rope.scaling.factor", *factor);
  return type == "yarn" ? read_yarn(*scaling, *factor) : Status::ok_status();
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
                                  int64_t head_dim, int64_t context) {
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
  config_.rope_factors = llama3_rope_factors(
      {theta, factor, low_factor, high_factor, original.value_or(context)}, head_dim);
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
  QUIPU_RETURN_IF_ERROR(ConfigBuilder(reader, result).build());
  QUIPU_RETURN_IF_ERROR(read_tokens(reader, result.metadata));
  if (generation.empty()) return result;
  QUIPU_ASSIGN_OR_RETURN(const Json generation_json,
                         parse_json_object(generation, generation_file, kConfigLimits));
  QUIPU_RETURN_IF_ERROR(
      read_generation(JsonReader(generation_json, std::string(generation_file)), result.metadata));
  return result;
}

}  // namespace quipu
