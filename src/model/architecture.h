// The registry of architectures. Adding one is one file that fills a ModelConfig, one line in
// architecture.cc, and one golden test.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "format/metadata.h"
#include "model/config.h"

namespace quipu {

struct Architecture {
  std::string_view name;     // general.architecture
  std::string_view summary;  // for `--help` and the documentation
  Result<ModelConfig> (*read_config)(const Metadata& metadata);
};

std::span<const Architecture> all_architectures();

// ERRORS: kUnsupported with the list of supported architectures, or with the reason why an encoder
// alone generates nothing; kCorruptData when the key is absent.
Result<const Architecture*> find_architecture(const Metadata& metadata);

// Whether GGUF's architecture of this name is an encoder without a decoder.
bool is_encoder_only(std::string_view name);

// One reader per architecture file.
Result<ModelConfig> read_llama_config(const Metadata& metadata);
Result<ModelConfig> read_qwen2_config(const Metadata& metadata);
Result<ModelConfig> read_qwen3_config(const Metadata& metadata);
Result<ModelConfig> read_gpt2_config(const Metadata& metadata);
Result<ModelConfig> read_starcoder_config(const Metadata& metadata);
Result<ModelConfig> read_t5_config(const Metadata& metadata);
Result<ModelConfig> read_transformer_config(const Metadata& metadata);
Result<ModelConfig> read_gemma2_config(const Metadata& metadata);
Result<ModelConfig> read_gemma3_config(const Metadata& metadata);
Result<ModelConfig> read_phi3_config(const Metadata& metadata);

}  // namespace quipu
