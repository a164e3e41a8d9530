#include "format/weight_types.h"

namespace quipu {

bool is_linear_weight(std::string_view name, const Shape& shape) {
  if (shape.size() != 2 || !name.ends_with(".weight")) return false;
  return name == "output.weight" || (name.starts_with("blk.") && !name.ends_with("_norm.weight"));
}

DType fitting_dtype(DType wanted, int64_t columns) {
  for (const DType dtype : {wanted, DType::kQ8_0}) {
    if (columns % static_cast<int64_t>(dtype_traits(dtype).block_elements) == 0) return dtype;
  }
  return DType::kBF16;
}

}  // namespace quipu
