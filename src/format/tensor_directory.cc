#include "format/tensor_directory.h"

#include <algorithm>
#include <cstring>

#include "base/suggest.h"
#include "format/printable.h"

namespace quipu {

bool TensorDirectory::add(TensorInfo info) {
  if (!index_.try_emplace(info.name, tensors_.size()).second) return false;
  tensors_.push_back(std::move(info));
  return true;
}

Result<size_t> TensorDirectory::index_of(std::string_view name, std::string_view file) const {
  const auto found = index_.find(name);
  if (found != index_.end()) return found->second;
  constexpr size_t kSuggestions = 3;
  std::vector<std::pair<size_t, std::string_view>> by_distance;
  for (const TensorInfo& tensor : tensors_) {
    if (tensor.name.size() > 2 * name.size() + 8) continue;  // far away, and dear to compare
    by_distance.emplace_back(edit_distance(name, tensor.name), tensor.name);
  }
  const size_t shown = std::min(kSuggestions, by_distance.size());
  std::partial_sort(by_distance.begin(), by_distance.begin() + static_cast<ptrdiff_t>(shown),
                    by_distance.end());
  std::string nearest_names;
  for (size_t i = 0; i < shown; ++i) {
    nearest_names += fmt::format("{}'{}'", i == 0 ? "; nearest names: " : ", ",
                                 printable(by_distance[i].second));
  }
  return make_error(ErrorCode::kNotFound, "{}: no tensor '{}' among {}{}", file, printable(name),
                    tensors_.size(), nearest_names);
}

Result<TensorData> view_or_aligned_copy(DType dtype, const Shape& shape,
                                        std::span<const std::byte> bytes) {
  TensorData data;
  data.view = {dtype, shape, bytes};
  const size_t alignment = dtype == DType::kF32 ? 4 : 2;
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignment == 0) return data;
  QUIPU_ASSIGN_OR_RETURN(data.owned, AlignedBuffer::allocate(bytes.size()));
  std::memcpy(data.owned.data(), bytes.data(), bytes.size());
  data.view.data = data.owned.bytes();
  return data;
}

}  // namespace quipu
