// TensorDirectory: the tensors of a model by name, with the error for a name that is not there.
// THREADS: immutable after filling, thread-safe.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "format/model_file.h"

namespace quipu {

class TensorDirectory {
 public:
  // False when the name is there already (nothing is added).
  bool add(TensorInfo info);

  std::span<const TensorInfo> all() const { return tensors_; }

  // The index in all() of `name`. ERRORS: kNotFound with `file` and the nearest names.
  Result<size_t> index_of(std::string_view name, std::string_view file) const;

 private:
  struct NameHash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
  };

  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, size_t, NameHash, std::equal_to<>> index_;
};

// A view of `bytes` as they are when they are aligned for `dtype`, else of an aligned copy.
// ERRORS: kResourceExhausted.
Result<TensorData> view_or_aligned_copy(DType dtype, const Shape& shape,
                                        std::span<const std::byte> bytes);

}  // namespace quipu
