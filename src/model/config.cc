#include "model/config.h"

#include <cmath>
#include <limits>

namespace quipu {

namespace {

// A dimension from outside: positive, and small enough that products of a few do not overflow.
constexpr int64_t kDimensionMax = int64_t{1} << 24;

Status check_range(const std::string& key, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return Status::ok_status();
  return make_error(ErrorCode::kCorruptData, "metadata key '{}' is {}; expected {} to {}", key,
                    value, low, high);
}

// An integer key, or the default when it is absent.
Result<int64_t> read_int(const Metadata& metadata, const std::string& key,
                         std::optional<int64_t> fallback, int64_t low = 1,
                         int64_t high = kDimensionMax) {
  int64_t value = 0;
  if (!metadata.contains(key) && fallback.has_value()) {
    value = *fallback;
  } else {
    QUIPU_ASSIGN_OR_RETURN(value, metadata.require_int(key));
  }
  QUIPU_RETURN_IF_ERROR(check_range(key, value, low, high));
  return value;
}

// Some writers store one value per layer; quipu takes them when all layers agree.
Result<int64_t> read_uniform_int(const Metadata& metadata, const std::string& key,
                                 std::optional<int64_t> fallback) {
  if (const auto values = metadata.get_ints(key); values.has_value() && !values->empty()) {
    for (const int64_t value : *values) {
      if (value == values->front()) continue;
      return make_error(
          ErrorCode::kUnsupported,
          "metadata key '{}' differs between layers ({} and {}), which quipu cannot run", key,
          values->front(), value);
    }
    QUIPU_RETURN_IF_ERROR(check_range(key, values->front(), 1, kDimensionMax));
    return values->front();
  }
  return read_int(metadata, key, fallback);
}

Status read_rope(const Metadata& metadata, const std::string& arch, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  QUIPU_ASSIGN_OR_RETURN(const int64_t dims, read_int(metadata, arch + ".rope.dimension_count",
                                                      config.key_length, 2, config.key_length));
  if (dims % 2 != 0) {
    return make_error(ErrorCode::kCorruptData,
                      "metadata key '{}.rope.dimension_count' is {}; expected an even number", arch,
                      dims);
  }
  rope.dims = static_cast<int>(dims);
  rope.theta = metadata.get_double(arch + ".rope.freq_base").value_or(10000);
  rope.original_context = metadata.get_int(arch + ".rope.scaling.original_context_length")
                              .value_or(config.context_length);
  rope.attention_factor = metadata.get_double(arch + ".rope.scaling.attn_factor").value_or(1);
  rope.beta_fast = metadata.get_double(arch + ".rope.scaling.yarn_beta_fast").value_or(32);
  rope.beta_slow = metadata.get_double(arch + ".rope.scaling.yarn_beta_slow").value_or(1);
  rope.factor = metadata.get_double(arch + ".rope.scaling.factor")
                    .value_or(metadata.get_double(arch + ".rope.scale_linear").value_or(1));
  const std::string type = metadata.get_string(arch + ".rope.scaling.type")
                               .value_or(rope.factor == 1 ? "none" : "linear");
  if (!(rope.theta > 0) || !(rope.factor > 0) || !std::isfinite(rope.theta) ||
      !std::isfinite(rope.factor)) {
    return make_error(ErrorCode::kCorruptData,
                      "rope base {} and factor {} must be positive numbers", rope.theta,
                      rope.factor);
  }
  if (type == "none") {
    rope.scaling = RopeScaling::kNone;
  } else if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
  } else if (type == "longrope") {
    rope.scaling = RopeScaling::kLongRope;
  } else {
    return make_error(
        ErrorCode::kUnsupported,
        "metadata key '{}.rope.scaling.type' is '{}'; quipu knows none, linear, yarn and longrope "
        "(Llama 3's factors are a tensor)",
        arch, type);
  }
  return Status::ok_status();
}

// The layers that the pattern names: a boolean for each, or a period.
Result<std::vector<bool>> read_pattern(const Metadata& metadata, const std::string& key,
                                       size_t layers, int64_t period) {
  if (const MetadataValue* pattern = metadata.find(key); pattern != nullptr) {
    if (const auto* listed = std::get_if<std::vector<bool>>(pattern)) {
      if (listed->size() == layers) return *listed;
    } else if (const std::optional<int64_t> number = metadata.get_int(key);
               number.has_value() && *number >= 0) {
      period = *number;
    } else {
      period = -1;
    }
    if (std::holds_alternative<std::vector<bool>>(*pattern) || period < 0) {
      return make_error(ErrorCode::kUnsupported,
                        "metadata key '{}' is neither a list of {} booleans, one for each layer, "
                        "nor a period",
                        key, layers);
    }
  }
  std::vector<bool> windowed;
  for (size_t layer = 0; layer < layers; ++layer) {
    windowed.push_back(period == 0 || static_cast<int64_t>(layer) % period < period - 1);
  }
  return windowed;
}

// One window for all layers, or for those that a pattern names.
Status read_windows(const Metadata& metadata, const std::string& arch,
                    const WindowDefaults& defaults, ModelConfig& config) {
  const std::string key = arch + ".attention.sliding_window";
  QUIPU_ASSIGN_OR_RETURN(const int64_t window,
                         read_int(metadata, key, defaults.window, 0, int64_t{1} << 31));
  const auto layers = static_cast<size_t>(config.block_count);
  config.layer_windows.assign(layers, 0);
  config.windowed_layers.assign(layers, false);
  if (window == 0) return Status::ok_status();
  QUIPU_ASSIGN_OR_RETURN(config.windowed_layers,
                         read_pattern(metadata, key + "_pattern", layers, defaults.period));
  if (window >= config.context_length) return Status::ok_status();  // it never cuts anything off
  for (size_t layer = 0; layer < layers; ++layer) {
    if (config.windowed_layers[layer]) config.layer_windows[layer] = static_cast<int>(window);
  }
  return Status::ok_status();
}

}  // namespace

Result<double> read_positive(const Metadata& metadata, const std::string& key, double fallback) {
  const double value = metadata.get_double(key).value_or(fallback);
  if (value > 0 && std::isfinite(value)) return value;
  return make_error(ErrorCode::kCorruptData, "metadata key '{}' is {}; expected a positive number",
                    key, value);
}

Result<ModelConfig> read_common_config(const Metadata& metadata, const std::string& architecture,
                                       const WindowDefaults& windows) {
  const std::string& arch = architecture;
  ModelConfig config;
  config.architecture = arch;
  config.name = metadata.get_string("general.name").value_or("");
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };

  QUIPU_ASSIGN_OR_RETURN(config.context_length, read_int(metadata, arch + ".context_length",
                                                         std::nullopt, 1, int64_t{1} << 31));
  QUIPU_ASSIGN_OR_RETURN(const int64_t embedding,
                         read_int(metadata, arch + ".embedding_length", std::nullopt));
  QUIPU_ASSIGN_OR_RETURN(const int64_t blocks,
                         read_int(metadata, arch + ".block_count", std::nullopt, 1, 10000));
  QUIPU_ASSIGN_OR_RETURN(const int64_t heads,
                         read_uniform_int(metadata, arch + ".attention.head_count", std::nullopt));
  QUIPU_ASSIGN_OR_RETURN(const int64_t heads_kv,
                         read_uniform_int(metadata, arch + ".attention.head_count_kv", heads));
  QUIPU_ASSIGN_OR_RETURN(const int64_t feed_forward,
                         read_uniform_int(metadata, arch + ".feed_forward_length", 4 * embedding));
  if (heads % heads_kv != 0) {
    return make_error(ErrorCode::kCorruptData, "{} query heads cannot be shared among {} KV heads",
                      heads, heads_kv);
  }
  if (embedding % heads != 0 && !metadata.contains(arch + ".attention.key_length")) {
    return make_error(
        ErrorCode::kCorruptData,
        "embedding length {} is not a multiple of {} heads and '{}.attention.key_length' is absent",
        embedding, heads, arch);
  }
  QUIPU_ASSIGN_OR_RETURN(
      const int64_t key_length,
      read_int(metadata, arch + ".attention.key_length", embedding / heads, 1, 8192));
  QUIPU_ASSIGN_OR_RETURN(const int64_t value_length,
                         read_int(metadata, arch + ".attention.value_length", key_length, 1, 8192));
  config.embedding_length = narrow(embedding);
  config.block_count = narrow(blocks);
  config.feed_forward_length = narrow(feed_forward);
  config.head_count = narrow(heads);
  config.head_count_kv = narrow(heads_kv);
  config.key_length = narrow(key_length);
  config.value_length = narrow(value_length);
  QUIPU_RETURN_IF_ERROR(read_windows(metadata, arch, windows, config));
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(key_length));
  if (const auto epsilon = metadata.get_double(arch + ".attention.layer_norm_rms_epsilon")) {
    config.norm_epsilon = static_cast<float>(*epsilon);
  } else if (const auto layer_epsilon =
                 metadata.get_double(arch + ".attention.layer_norm_epsilon")) {
    config.norm_epsilon = static_cast<float>(*layer_epsilon);
  }
  if (key_length % 2 == 0) QUIPU_RETURN_IF_ERROR(read_rope(metadata, arch, config));
  return config;
}

Result<EncoderDecoderConfig> read_encoder_decoder_config(const Metadata& metadata,
                                                         ModelConfig& config) {
  const std::string& arch = config.architecture;
  EncoderDecoderConfig both;
  both.encoder_block_count = config.block_count;
  QUIPU_ASSIGN_OR_RETURN(const int64_t blocks, read_int(metadata, arch + ".decoder_block_count",
                                                        config.block_count, 1, 10000));
  config.block_count = static_cast<int>(blocks);
  config.layer_windows.assign(static_cast<size_t>(blocks), 0);
  // T5 begins with its padding token, 0.
  QUIPU_ASSIGN_OR_RETURN(const int64_t start,
                         read_int(metadata, arch + ".decoder_start_token_id", 0, 0, kDimensionMax));
  both.decoder_start_token = static_cast<TokenId>(start);
  return both;
}

Result<int64_t> read_bounded_int(const Metadata& metadata, const std::string& key, int64_t fallback,
                                 int64_t low, int64_t high) {
  return read_int(metadata, key, fallback, low, high);
}

}  // namespace quipu
