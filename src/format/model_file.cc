#include "format/model_file.h"

#include <system_error>

#include "format/gguf_model.h"
#include "format/hf_model.h"

namespace quipu {

const TensorInfo* ModelFile::find(std::string_view name) const {
  for (const TensorInfo& tensor : tensors()) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

Result<std::unique_ptr<ModelFile>> open_model_file(const std::filesystem::path& path,
                                                   const ModelFileOptions& options) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return open_hf_model(path, options);
  if (path.extension() == ".safetensors" || path.filename() == "config.json") {
    return make_error(
        ErrorCode::kInvalidArgument,
        "{}: a file of a Hugging Face model; give the directory that holds it and config.json",
        path.string());
  }
  if (options.weights) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: weights are quantised while loading from Hugging Face directories only; "
                      "for a GGUF file "
                      "use `quipu quantize`",
                      path.string());
  }
  return open_gguf_model(path);
}

}  // namespace quipu
