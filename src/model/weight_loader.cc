#include "model/weight_loader.h"

#include <algorithm>

#include "tensor/quantize.h"

namespace quipu {

WeightLoader::WeightLoader(const ModelFile& file, Backend& backend,
                           std::function<void(uint64_t, uint64_t)> progress)
    : file_(file), backend_(backend), progress_(std::move(progress)) {
  for (const TensorInfo& tensor : file.tensors()) bytes_total_ += tensor.bytes;
}

void WeightLoader::count(uint64_t bytes) {
  bytes_done_ = std::min(bytes_done_ + bytes, bytes_total_);
  if (progress_) progress_(bytes_done_, bytes_total_);
}

Result<TensorData> WeightLoader::read(const std::string& name, const Shape& expected) {
  const std::string path = file_.path().string();
  if (const TensorInfo* info = file_.find(name); info != nullptr && info->shape != expected) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: tensor '{}' has shape {}; expected {} from the metadata", path, name,
                      shape_to_string(info->shape), shape_to_string(expected));
  }
  return file_.read(name);  // says which file and tensor when it fails
}

Result<std::unique_ptr<LinearWeight>> WeightLoader::linear(const std::string& name,
                                                           int64_t out_features,
                                                           int64_t in_features) {
  QUIPU_ASSIGN_OR_RETURN(const TensorData data, read(name, {out_features, in_features}));
  Result<std::unique_ptr<LinearWeight>> weight = backend_.load_linear(data.view);
  if (!weight.ok())
    return weight.status().with_context(
        fmt::format("{}: tensor '{}'", file_.path().string(), name));
  count(data.view.data.size());
  file_.release(name);
  return weight;
}

Result<std::unique_ptr<DeviceBuffer>> WeightLoader::vector(const std::string& name,
                                                           int64_t length) {
  QUIPU_ASSIGN_OR_RETURN(const TensorData data, read(name, {length}));
  count(data.view.data.size());
  return backend_.load_vector(data.view);
}

Result<std::unique_ptr<DeviceBuffer>> WeightLoader::optional_vector(const std::string& name,
                                                                    int64_t length) {
  if (!has(name)) return std::unique_ptr<DeviceBuffer>();
  return vector(name, length);
}

Result<std::unique_ptr<EmbeddingTable>> WeightLoader::embedding(const std::string& name,
                                                                int64_t entries, int64_t dim,
                                                                std::vector<TensorData>& storage) {
  QUIPU_ASSIGN_OR_RETURN(TensorData data, read(name, {entries, dim}));
  count(data.view.data.size());
  storage.push_back(std::move(data));
  return backend_.load_embedding(storage.back().view);
}

Result<std::vector<float>> WeightLoader::values(const std::string& name, int64_t length) {
  QUIPU_ASSIGN_OR_RETURN(const TensorData data, read(name, {length}));
  count(data.view.data.size());
  std::vector<float> values(static_cast<size_t>(length));
  dequantize_row(data.view.dtype, data.view.data.data(), values);
  return values;
}

Result<std::vector<float>> WeightLoader::matrix(const std::string& name, int64_t rows,
                                                int64_t columns) {
  QUIPU_ASSIGN_OR_RETURN(const TensorData data, read(name, {rows, columns}));
  count(data.view.data.size());
  const auto width = static_cast<size_t>(columns);
  std::vector<float> values(static_cast<size_t>(rows) * width);
  for (int64_t row = 0; row < rows; ++row) {
    dequantize_row(data.view.dtype, data.view.row(row),
                   {values.data() + static_cast<size_t>(row) * width, width});
  }
  return values;
}

}  // namespace quipu
