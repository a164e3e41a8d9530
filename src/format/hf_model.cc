#include "format/hf_model.h"

namespace quipu {
Result<std::unique_ptr<ModelFile>> open_hf_model(const std::filesystem::path& directory,
                                                 const ModelFileOptions&) {
  return make_error(ErrorCode::kUnsupported, "{}: Hugging Face directories are not read yet", directory.string());
}
}  // namespace quipu
