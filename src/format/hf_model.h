// HfModel: a Hugging Face model directory under GGUF's names.
//
// config.json becomes metadata (format/hf_config.h), the tensors of model.safetensors or of the
// shards that model.safetensors.index.json names get GGUF's names and row order (hf_tensors.h).
// A tensor whose bytes already are what GGUF would hold is a view into the map; the others are
// converted in read(), each call on its own memory, so that any number of threads may read.
#pragma once

#include <memory>

#include "format/model_file.h"

namespace quipu {

// ERRORS: those of open_model_file.
Result<std::unique_ptr<ModelFile>> open_hf_model(const std::filesystem::path& directory,
                                                 const ModelFileOptions& options);

}  // namespace quipu
