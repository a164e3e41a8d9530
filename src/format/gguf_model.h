// GgufModel: a model in one GGUF file or a split set of them, mapped into memory.
#pragma once

#include <memory>

#include "format/model_file.h"

namespace quipu {

// Opens `path`, and the other files of its set when its metadata says that it is the first of
// several (split.count). ERRORS: those of open_model_file.
Result<std::unique_ptr<ModelFile>> open_gguf_model(const std::filesystem::path& path);

}  // namespace quipu
