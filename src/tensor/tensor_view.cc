#include "tensor/tensor_view.h"

#include "base/check.h"

namespace quipu {

std::string shape_to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) {
    QUIPU_CHECK(dimension >= 0 && !__builtin_mul_overflow(count, dimension, &count),
                "shape {} has no element count", shape_to_string(shape));
  }
  return count;
}

}  // namespace quipu
