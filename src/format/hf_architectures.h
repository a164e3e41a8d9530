// The Hugging Face architectures that quipu reads: how each one's configuration and tensor names
// become GGUF's.
//
// Adding one is an entry in the table of hf_architectures.cc: its model_type, GGUF's name for it,
// how its configuration family is read, and its tensor rules.
// THREADS: immutable tables.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace quipu {

// How a tensor's rows differ between Hugging Face's files and GGUF's.
enum class RowOrder {
  kSame,
  // Rotary pairs: Hugging Face pairs rows i and i + d/2 of a head, GGUF's `llama` rows 2i and 2i+1.
  kPermuteQueryHeads,
  kPermuteKeyHeads,
  // GPT-2's Conv1D stores [in, out].
  kTransposed,
};

// "self_attn.q_proj" -> "attn_q"; both names without ".weight" or ".bias". The transposition
// applies to weights only, the permutation to both.
struct TensorRule {
  std::string_view hf_name;
  std::string_view gguf_name;
  RowOrder order = RowOrder::kSame;
  float added = 0;  // to every value: Gemma's files hold a norm's w for a gain of 1 + w
};

enum class ConfigFamily { kLlama, kGpt2, kGemma, kPhi3, kT5 };

// One of several stacks of layers: "encoder.block.3.layer.0.SelfAttention.q" -> "enc.blk.3.attn_q".
struct LayerStack {
  std::string_view prefix;       // before the layer number: "encoder.block."
  std::string_view gguf_prefix;  // "enc.blk."
  std::span<const TensorRule> rules;
};

struct HfArchitecture {
  std::string_view model_type;  // "model_type" of config.json
  std::string_view gguf_name;   // "general.architecture"
  ConfigFamily family;
  // Before every name, where the file has it: "model."; the first that fits.
  std::span<const std::string_view> prefixes;
  std::string_view layer_prefix;  // before the layer number: "layers."
  std::span<const TensorRule> globals;
  std::span<const TensorRule> layers;
  std::span<const std::string_view> ignored;  // ends of names that hold no weights, such as masks
  std::span<const std::string_view> ignored_parts;  // beginnings of names: other modalities
  bool tied_by_default;  // tie_word_embeddings when the configuration does not say
  double rms_epsilon_default;
  std::span<const LayerStack> stacks = {};  // instead of layer_prefix and layers, where not empty
};

// ERRORS: kUnsupported, for an encoder with the reason why it generates nothing, for any other name
// with the supported ones.
Result<const HfArchitecture*> find_hf_architecture(std::string_view model_type,
                                                   std::string_view file);

// Why a model that is only an encoder cannot be asked to generate.
Status encoder_only_error(std::string_view architecture);

struct MappedName {
  std::string gguf_name;  // with ".weight" or ".bias"
  RowOrder order;
  float added;  // to every value
  std::optional<int64_t> layer;
};

// The GGUF name of a tensor. kIgnored: a buffer that is not a weight. kUnknown: not one of the
// architecture's tensors.
enum class NameKind { kMapped, kIgnored, kUnknown };
struct NameLookup {
  NameKind kind;
  MappedName mapped;  // when kMapped
};
NameLookup map_tensor_name(const HfArchitecture& architecture, std::string_view name);

}  // namespace quipu
