// WeightLoader: fetches tensors by name, checks their shapes, hands them to the backend.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "format/model_file.h"

namespace quipu {

class WeightLoader {
 public:
  WeightLoader(const ModelFile& file, Backend& backend,
               std::function<void(uint64_t, uint64_t)> progress);

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }

  // A weight [out_features, in_features]. ERRORS: kNotFound, kCorruptData (shape), and the
  // backend's.
  Result<std::unique_ptr<LinearWeight>> linear(const std::string& name, int64_t out_features,
                                               int64_t in_features);
  // A vector [length]; the optional form gives nullptr when the tensor is absent.
  Result<std::unique_ptr<DeviceBuffer>> vector(const std::string& name, int64_t length);
  Result<std::unique_ptr<DeviceBuffer>> optional_vector(const std::string& name, int64_t length);
  // A table [entries, dim]. Converted bytes, if any, are kept in `storage`, which must outlive it.
  Result<std::unique_ptr<EmbeddingTable>> embedding(const std::string& name, int64_t entries,
                                                    int64_t dim, std::vector<TensorData>& storage);
  // The values as f32. SHAPE: [length].
  Result<std::vector<float>> values(const std::string& name, int64_t length);
  // SHAPE: [rows, columns].
  Result<std::vector<float>> matrix(const std::string& name, int64_t rows, int64_t columns);

 private:
  Result<TensorData> read(const std::string& name, const Shape& expected);
  void count(uint64_t bytes);

  const ModelFile& file_;
  Backend& backend_;
  std::function<void(uint64_t, uint64_t)> progress_;
  uint64_t bytes_done_ = 0;
  uint64_t bytes_total_ = 0;
};

}  // namespace quipu
