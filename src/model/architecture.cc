#include "model/architecture.h"

#include <algorithm>

#include "format/hf_architectures.h"

namespace quipu {

namespace {

constexpr Architecture kArchitectures[] = {
    {"llama", "Llama 1 to 3.3, Mistral, TinyLlama, SmolLM, Yi", read_llama_config},
    {"qwen2", "Qwen 1.5, 2 and 2.5", read_qwen2_config},
    {"qwen3", "Qwen 3 (dense)", read_qwen3_config},
    {"gpt2", "GPT-2", read_gpt2_config},
    {"starcoder", "StarCoder 1 (multi-query)", read_starcoder_config},
    {"t5", "T5 1.0 and 1.1, Flan-T5 (encoder-decoder)", read_t5_config},
    {"transformer", "the original Transformer: Marian, OpenNMT (encoder-decoder)",
     read_transformer_config},
    {"gemma2", "Gemma 2", read_gemma2_config},
    {"gemma3", "Gemma 3 (text)", read_gemma3_config},
    {"phi3", "Phi-3 mini and medium, Phi-3.5 mini, Phi-4 and Phi-4-mini", read_phi3_config},
};

// Models without a decoder. SOURCE: GGUF's names.
constexpr std::string_view kEncoders[] = {
    "bert",         "modern-bert",  "neo-bert",        "nomic-bert", "nomic-bert-moe",
    "jina-bert-v2", "jina-bert-v3", "gemma-embedding", "t5encoder",  "eurobert"};

}  // namespace

bool is_encoder_only(std::string_view name) {
  return std::ranges::find(kEncoders, name) != std::end(kEncoders);
}

std::span<const Architecture> all_architectures() { return kArchitectures; }

Result<const Architecture*> find_architecture(const Metadata& metadata) {
  QUIPU_ASSIGN_OR_RETURN(const std::string name, metadata.require_string("general.architecture"));
  std::string supported;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
    supported += supported.empty() ? "" : ", ";
    supported += architecture.name;
  }
  if (is_encoder_only(name)) return encoder_only_error(name);
  return make_error(ErrorCode::kUnsupported, "architecture '{}' is not supported; supported: {}",
                    name, supported);
}

}  // namespace quipu
