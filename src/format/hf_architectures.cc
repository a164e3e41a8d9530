#include "format/hf_architectures.h"

#include <algorithm>
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

constexpr TensorRule kT5Globals[] = {
    {"shared", "token_embd"},
    {"encoder.final_layer_norm", "enc.output_norm"},
    {"decoder.final_layer_norm", "dec.output_norm"},
    {"lm_head", "output"},
};

constexpr TensorRule kT5Encoder[] = {
    {"layer.0.layer_norm", "attn_norm"},
    {"layer.0.SelfAttention.q", "attn_q"},
    {"layer.0.SelfAttention.k", "attn_k"},
    {"layer.0.SelfAttention.v", "attn_v"},
    {"layer.0.SelfAttention.o", "attn_o"},
    {"layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"},
    {"layer.1.layer_norm", "ffn_norm"},
    {"layer.1.DenseReluDense.wi", "ffn_up"},
    {"layer.1.DenseReluDense.wi_0", "ffn_gate"},
    {"layer.1.DenseReluDense.wi_1", "ffn_up"},
    {"layer.1.DenseReluDense.wo", "ffn_down"},
};

constexpr TensorRule kT5Decoder[] = {
    {"layer.0.layer_norm", "attn_norm"},
    {"layer.0.SelfAttention.q", "attn_q"},
    {"layer.0.SelfAttention.k", "attn_k"},
    {"layer.0.SelfAttention.v", "attn_v"},
    {"layer.0.SelfAttention.o", "attn_o"},
    {"layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"},
    {"layer.1.layer_norm", "cross_attn_norm"},
    {"layer.1.EncDecAttention.q", "cross_attn_q"},
    {"layer.1.EncDecAttention.k", "cross_attn_k"},
    {"layer.1.EncDecAttention.v", "cross_attn_v"},
    {"layer.1.EncDecAttention.o", "cross_attn_o"},
    {"layer.2.layer_norm", "ffn_norm"},
    {"layer.2.DenseReluDense.wi", "ffn_up"},
    {"layer.2.DenseReluDense.wi_0", "ffn_gate"},
    {"layer.2.DenseReluDense.wi_1", "ffn_up"},
    {"layer.2.DenseReluDense.wo", "ffn_down"},
};

constexpr LayerStack kT5Stacks[] = {
    {"encoder.block.", "enc.blk.", kT5Encoder},
    {"decoder.block.", "dec.blk.", kT5Decoder},
};

// Copies of "shared", and a table that old checkpoints hold and nothing reads.
constexpr std::string_view kT5Ignored[] = {".embed_tokens.weight",
                                           ".EncDecAttention.relative_attention_bias.weight"};

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

constexpr HfArchitecture t5_like(std::string_view model_type) {
  return {model_type, "t5",       ConfigFamily::kT5, {},   "",   kT5Globals,
          {},         kT5Ignored, {},                true, 1e-6, kT5Stacks};
}

constexpr std::array kArchitectures = {
    llama_like("llama", "llama", kLlamaLayers),
    llama_like("mistral", "llama", kLlamaLayers),
    llama_like("qwen2", "qwen2", kQwenLayers),
    llama_like("qwen3", "qwen3", kQwenLayers),
    gpt2_like("gpt2", "gpt2", kGpt2Layers),
    gpt2_like("gpt_bigcode", "starcoder", kStarcoderLayers),
    t5_like("t5"),
    t5_like("mt5"),
    gemma_like("gemma2", "gemma2"),
    gemma_like("gemma3_text", "gemma3"),
    gemma_with_images(),
    phi3(),
};

// Models without a decoder, by model_type.
constexpr std::string_view kEncoders[] = {
    "albert",     "bert",     "camembert", "deberta",     "deberta-v2",  "distilbert",    "electra",
    "ernie",      "eurobert", "flaubert",  "longformer",  "mobilebert",  "modernbert",    "mpnet",
    "nomic_bert", "roberta",  "roformer",  "squeezebert", "xlm-roberta", "xlm-roberta-xl"};

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
  if (std::ranges::find(kEncoders, model_type) != std::end(kEncoders))
    return encoder_only_error(model_type).with_context(file);
  return make_error(ErrorCode::kUnsupported,
                    "{}: architecture '{}' (model_type) is not supported; supported: {}", file,
                    printable(model_type), supported);
}

Status encoder_only_error(std::string_view architecture) {
  return make_error(
      ErrorCode::kUnsupported,
      "architecture '{}' is an encoder without a decoder: its whole input attends to itself at "
      "once and nothing is appended to it, so it generates no text, and there is no KV cache, "
      "because no token's keys and values are used again by a later one; quipu runs decoders "
      "(llama, qwen3, ...) and encoder-decoder models (t5, transformer)",
      printable(architecture));
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
  std::string_view block_prefix = "blk.";
  std::string_view layer_prefix = architecture.layer_prefix;
  std::span<const TensorRule> layer_rules = architecture.layers;
  for (const LayerStack& stack : architecture.stacks) {
    if (!rest.starts_with(stack.prefix)) continue;
    block_prefix = stack.gguf_prefix;
    layer_prefix = stack.prefix;
    layer_rules = stack.rules;
  }
  const auto mapped = [&](const TensorRule* rule, std::optional<int64_t> layer) -> NameLookup {
    if (rule == nullptr) return {NameKind::kUnknown, {}};
    const RowOrder order =
        is_bias && rule->order == RowOrder::kTransposed ? RowOrder::kSame : rule->order;
    const std::string block = layer ? fmt::format("{}{}.", block_prefix, *layer) : "";
    return {NameKind::kMapped,
            {fmt::format("{}{}{}", block, rule->gguf_name, suffix), order, rule->added, layer}};
  };
  if (layer_prefix.empty() || !consume(rest, layer_prefix))
    return mapped(find_rule(architecture.globals, rest), std::nullopt);
  int32_t layer = -1;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  if (error != std::errc() || layer < 0 || !consume(rest, ".")) return {NameKind::kUnknown, {}};
  return mapped(find_rule(layer_rules, rest), layer);
}

}  // namespace quipu
