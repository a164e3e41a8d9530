// TensorView: the shape, type and bytes of a stored tensor; it owns nothing.
//
// Dimensions are written outermost first, as C arrays and PyTorch do: a linear layer's weight is
// [out_features, in_features], rows are contiguous. (GGUF writes them the other way round; its
// reader turns them.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace quipu {

using Shape = std::vector<int64_t>;  // outermost dimension first

// "[896, 4864]", for messages.
std::string shape_to_string(const Shape& shape);

// Product of all dimensions (1 for a scalar). REQUIRES: no overflow; readers check it first.
int64_t element_count(const Shape& shape);

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> data;  // SHAPE: shape, rows of row_bytes(dtype, shape.back()) bytes

  // Rows and elements per row, with all outer dimensions folded into rows.
  int64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const { return columns() == 0 ? 0 : element_count(shape) / columns(); }
  const std::byte* row(int64_t index) const {
    return data.data() +
           static_cast<size_t>(index) * row_bytes(dtype, static_cast<size_t>(columns()));
  }
};

}  // namespace quipu
