// Which type a weight is stored in, when a model is quantised: shared by loading a Hugging Face
// directory with ModelFileOptions::weights and by app/quantize_model.
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

}  // namespace quipu
