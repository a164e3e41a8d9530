#include "format/weight_types.h"

#include <charconv>

namespace quipu {

namespace {

bool is_four_or_five_bits(DType type) {
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K: return true;
    default: return false;
  }
}

// "blk.", also of an encoder's or a decoder's stack, taken off. False, and no change, without it.
bool consume_block(std::string_view& name) {
  std::string_view rest = name;
  if (rest.starts_with("enc.") || rest.starts_with("dec.")) rest.remove_prefix(4);
  if (!rest.starts_with("blk.")) return false;
  name = rest;
  return true;
}

// The layer of "blk.7.ffn_down.weight"; -1 for other names.
int64_t layer_of(std::string_view name) {
  int64_t layer = -1;
  if (consume_block(name)) std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  return layer;
}

// The first and last eighth, and every third layer between.
bool is_sensitive_layer(int64_t layer, int64_t count) {
  return layer < count / 8 || layer >= 7 * count / 8 || (layer - count / 8) % 3 == 2;
}

}  // namespace

bool is_linear_weight(std::string_view name, const Shape& shape) {
  if (shape.size() != 2 || !name.ends_with(".weight")) return false;
  if (name == "output.weight") return true;
  // A relative position bias is looked up, not multiplied.
  return consume_block(name) && !name.ends_with("_norm.weight") &&
         !name.ends_with(".attn_rel_b.weight");
}

DType fitting_dtype(DType wanted, int64_t columns) {
  for (const DType dtype : {wanted, DType::kQ8_0}) {
    if (columns % static_cast<int64_t>(dtype_traits(dtype).block_elements) == 0) return dtype;
  }
  return DType::kBF16;
}

DType mixed_dtype(const QuantMix& mix, std::string_view name, const Shape& shape) {
  const bool embedding =
      (name == "token_embd.weight" || name == "enc.token_embd.weight") && shape.size() == 2;
  if (!embedding && !is_linear_weight(name, shape)) return DType::kF32;
  DType type = mix.type;
  const bool head = name == "output.weight" || (embedding && mix.tied_embeddings);
  if (head && is_four_or_five_bits(type)) type = DType::kQ6_K;
  if (!head && (type == DType::kQ4_K || type == DType::kQ5_K)) {
    const bool value_or_down =
        name.ends_with(".attn_v.weight") || name.ends_with(".ffn_down.weight");
    if (value_or_down && is_sensitive_layer(layer_of(name), mix.block_count)) type = DType::kQ6_K;
    if (name.ends_with(".attn_qkv.weight"))
      type = type == DType::kQ4_K ? DType::kQ5_K : DType::kQ6_K;
  }
  return fitting_dtype(type, shape.back());
}

// SOURCE: GGUF specification, general.file_type.
uint64_t gguf_file_type(DType type) {
  switch (type) {
    case DType::kF32: return 0;
    case DType::kF16: return 1;
    case DType::kQ4_0: return 2;
    case DType::kQ4_1: return 3;
    case DType::kQ8_0: return 7;
    case DType::kQ5_0: return 8;
    case DType::kQ5_1: return 9;
    case DType::kQ4_K: return 15;
    case DType::kQ5_K: return 17;
    case DType::kQ6_K: return 18;
    case DType::kBF16: return 32;
  }
  return 0;
}

}  // namespace quipu
