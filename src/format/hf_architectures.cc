#include "format/hf_architectures.h"

#include <array>
#include <charconv>

#include "format/printable.h"

namespace quipu {

namespace {

constexpr TensorRule kLlamaGlobals[] = {
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
    {"lm_head", "output"},
};

constexpr TensorRule kLlamaLayers[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q", RowOrder::kPermuteQueryHeads},
    {"self_attn.k_proj", "attn_k", RowOrder::kPermuteKeyHeads},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

// Rotary halves stay as they are: GGUF's qwen2 and qwen3 pair rows as Hugging Face does.
constexpr TensorRule kQwenLayers[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

constexpr TensorRule kGpt2Globals[] = {
    {"wte", "token_embd"},
    {"wpe", "position_embd"},
    {"ln_f", "output_norm"},
    {"lm_head", "output"},
};

constexpr TensorRule kGpt2Layers[] = {
    {"ln_1", "attn_norm"},
    {"attn.c_attn", "attn_qkv", RowOrder::kTransposed},
    {"attn.c_proj", "attn_output", RowOrder::kTransposed},
    {"ln_2", "ffn_norm"},
    {"mlp.c_fc", "ffn_up", RowOrder::kTransposed},
    {"mlp.c_proj", "ffn_down", RowOrder::kTransposed},
};

// GPTBigCode: the names of GPT-2, but ordinary linear layers; with multi-query attention its fused
// rows are queries, one key head, one value head, as GGUF has them.
constexpr TensorRule kStarcoderLayers[] = {
    {"ln_1", "attn_norm"}, {"attn.c_attn", "attn_qkv"}, {"attn.c_proj", "attn_output"},
    {"ln_2", "ffn_norm"},  {"mlp.c_fc", "ffn_up"},      {"mlp.c_proj", "ffn_down"},
};

// Norms before and behind both parts, and of queries and keys in Gemma 3; each a gain of 1 + w.
constexpr TensorRule kGemmaGlobals[] = {
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm", RowOrder::kSame, 1},
    {"lm_head", "output"},
};

constexpr TensorRule kGemmaLayers[] = {
    {"input_layernorm", "attn_norm", RowOrder::kSame, 1},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.q_norm", "attn_q_norm", RowOrder::kSame, 1},
    {"self_attn.k_norm", "attn_k_norm", RowOrder::kSame, 1},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "post_attention_norm", RowOrder::kSame, 1},
    {"pre_feedforward_layernorm", "ffn_norm", RowOrder::kSame, 1},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"post_feedforward_layernorm", "post_ffw_norm", RowOrder::kSame, 1},
};

// Fused rows lie in GGUF's order: q | k | v and gate | up.
constexpr TensorRule kPhi3Layers[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_up_proj", "ffn_up"},      {"mlp.down_proj", "ffn_down"},
};

constexpr std::string_view kModelPrefix[] = {"model."};
constexpr std::string_view kGpt2Prefix[] = {"transformer."};
// Gemma 3 with images, as published and as transformers 5 writes it.
constexpr std::string_view kTextOfSeveral[] = {"language_model.model.", "model.language_model.",
                                               "language_model.", "model."};
constexpr std::string_view kVisionParts[] = {"vision_tower.", "multi_modal_projector.",
                                             "model.vision_tower.", "model.multi_modal_projector."};
constexpr std::string_view kLlamaIgnored[] = {".rotary_emb.inv_freq"};
constexpr std::string_view kGpt2Ignored[] = {".attn.bias", ".attn.masked_bias"};

constexpr HfArchitecture llama_like(std::string_view model_type, std::string_view gguf_name,
                                    std::span<const TensorRule> layers) {
  return {model_type,    gguf_name, ConfigFamily::kLlama, kModelPrefix, "layers.",
          kLlamaGlobals, layers,    kLlamaIgnored,        {},           false,
          1e-6};
}

constexpr HfArchitecture gpt2_like(std::string_view model_type, std::string_view gguf_name,
                                   std::span<const TensorRule> layers) {
  return {model_type,   gguf_name, ConfigFamily::kGpt2, kGpt2Prefix, "h.",
          kGpt2Globals, layers,    kGpt2Ignored,        {},          true,
          1e-5};
}

constexpr HfArchitecture gemma_like(std::string_view model_type, std::string_view gguf_name) {
  return {model_type,    gguf_name,    ConfigFamily::kGemma, kModelPrefix, "layers.",
          kGemmaGlobals, kGemmaLayers, kLlamaIgnored,        {},           true,
          1e-6};
}

constexpr HfArchitecture gemma_with_images() {
  HfArchitecture architecture = gemma_like("gemma3", "gemma3");
  architecture.prefixes = kTextOfSeveral;
  architecture.ignored_parts = kVisionParts;
  return architecture;
}

constexpr HfArchitecture phi3() {
  return {"phi3",        "phi3",      ConfigFamily::kPhi3, kModelPrefix, "layers.",
          kLlamaGlobals, kPhi3Layers, kLlamaIgnored,       {},           false,
          1e-5};
}

constexpr std::array kArchitectures = {
    llama_like("llama", "llama", kLlamaLayers),
    llama_like("mistral", "llama", kLlamaLayers),
    llama_like("qwen2", "qwen2", kQwenLayers),
    llama_like("qwen3", "qwen3", kQwenLayers),
    gpt2_like("gpt2", "gpt2", kGpt2Layers),
    gpt2_like("gpt_bigcode", "starcoder", kStarcoderLayers),
    gemma_like("gemma2", "gemma2"),
    gemma_like("gemma3_text", "gemma3"),
    gemma_with_images(),
    phi3(),
};

const TensorRule* find_rule(std::span<const TensorRule> rules, std::string_view name) {
  for (const TensorRule& rule : rules) {
    if (rule.hf_name == name) return &rule;
  }
  return nullptr;
}

// Takes a prefix off. False, and no change, when it is not there.
bool consume(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

Result<const HfArchitecture*> find_hf_architecture(std::string_view model_type,
                                                   std::string_view file) {
  std::string supported;
  for (const HfArchitecture& architecture : kArchitectures) {
    if (architecture.model_type == model_type) return &architecture;
    supported += supported.empty() ? "" : ", ";
    supported += architecture.model_type;
  }
  return make_error(ErrorCode::kUnsupported,
                    "{}: architecture '{}' (model_type) is not supported; supported: {}", file,
                    printable(model_type), supported);
}

NameLookup map_tensor_name(const HfArchitecture& architecture, std::string_view name) {
  for (const std::string_view end : architecture.ignored) {
    if (name.ends_with(end)) return {NameKind::kIgnored, {}};
  }
  for (const std::string_view part : architecture.ignored_parts) {
    if (name.starts_with(part)) return {NameKind::kIgnored, {}};
  }
  std::string_view rest = name;
  for (const std::string_view prefix : architecture.prefixes) {
    if (consume(rest, prefix)) break;
  }
  std::string_view suffix;
  for (const std::string_view candidate : {".weight", ".bias"}) {
    if (rest.ends_with(candidate)) suffix = candidate;
  }
  rest.remove_suffix(suffix.size());
  if (suffix.empty()) return {NameKind::kUnknown, {}};
  const bool is_bias = suffix == ".bias";
  const auto mapped = [&](const TensorRule* rule, std::optional<int64_t> layer) -> NameLookup {
    if (rule == nullptr) return {NameKind::kUnknown, {}};
    const RowOrder order =
        is_bias && rule->order == RowOrder::kTransposed ? RowOrder::kSame : rule->order;
    const std::string block = layer ? fmt::format("blk.{}.", *layer) : "";
    return {NameKind::kMapped,
            {fmt::format("{}{}{}", block, rule->gguf_name, suffix), order, rule->added, layer}};
  };
  if (!consume(rest, architecture.layer_prefix))
    return mapped(find_rule(architecture.globals, rest), std::nullopt);
  int32_t layer = -1;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  if (error != std::errc() || layer < 0 || !consume(rest, ".")) return {NameKind::kUnknown, {}};
  return mapped(find_rule(architecture.layers, rest), layer);
}

}  // namespace quipu
