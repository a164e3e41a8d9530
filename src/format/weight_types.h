// Which type a weight is stored in, when a model is quantised: shared by loading a Hugging Face
// directory with ModelFileOptions::weights, by app/quantize_model and by app/synth_model.
// THREADS: pure functions.
#pragma once

#include <string_view>

#include "tensor/tensor_view.h"

namespace quipu {

// Whether `name` is a matrix of a linear layer: two dimensions, ".weight", and not an embedding
// table. Norms, biases, embeddings and rope factors are not.
bool is_linear_weight(std::string_view name, const Shape& shape);

// `wanted` where its block divides a row of `columns`; else q8_0; else bf16.
DType fitting_dtype(DType wanted, int64_t columns);

// The mix of types behind one name, as downloaded files have it ("q4_k" is what others call
// Q4_K_M).
struct QuantMix {
  DType type;            // what the user asked for
  int64_t block_count;   // layers of the model
  bool tied_embeddings;  // token_embd.weight is the head too
};

// The type of one tensor under a mix:
//   - norms, biases, rope factors and learned positions: f32;
//   - the head (output.weight, or token_embd.weight when tied) under a 4- or 5-bit type: q6_k,
//     because every token's probabilities pass through it;
//   - under q4_k and q5_k, attn_v and ffn_down of the first and last eighth of the layers and of
//     every third layer between: q6_k, and a fused attn_qkv: q5_k or q6_k; they lose the most;
//   - every other matrix: the type itself.
// Then fitting_dtype, when its block does not divide the rows.
DType mixed_dtype(const QuantMix& mix, std::string_view name, const Shape& shape);

// GGUF's general.file_type of a mix: what other tools show as the file's type.
uint64_t gguf_file_type(DType type);

}  // namespace quipu
