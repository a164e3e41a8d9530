// Any text as config.json, and after a zero byte as generation_config.json; and any text as the
// name of a tensor: refused, or a configuration whose numbers are usable.
#include <cmath>
#include <cstdint>
#include <string_view>

#include "base/utf8.h"
#include "format/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quipu;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t zero = text.find('\0');
  const std::string_view generation = zero == std::string_view::npos ? "" : text.substr(zero + 1);
  const auto config = parse_hf_config(text.substr(0, zero), "config.json", generation,
                                      "generation_config.json", "fuzz");
  if (config.ok()) {
    QUIPU_CHECK(config->head_count > 0 && config->head_count_kv > 0 && config->block_count > 0,
                "counts");
    QUIPU_CHECK(config->head_count % config->head_count_kv == 0, "groups");
    for (const RopeFactors& factors : config->rope_factors) {
      for (const float divisor : factors.values)
        QUIPU_CHECK(std::isfinite(divisor) && divisor > 0, "{}", divisor);
    }
  } else {
    QUIPU_CHECK(is_valid_utf8(config.status().message()), "error message");
  }
  for (const char* model_type : {"llama", "qwen3", "gpt2", "gpt_bigcode", "gemma3", "phi3", "t5"}) {
    const auto architecture = find_hf_architecture(model_type, "config.json");
    const NameLookup lookup = map_tensor_name(**architecture, text);
    if (lookup.kind == NameKind::kMapped && lookup.mapped.layer)
      QUIPU_CHECK(*lookup.mapped.layer >= 0, "layer");
  }
  return 0;
}
