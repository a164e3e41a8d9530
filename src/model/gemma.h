// What Gemma 2 and Gemma 3 have in common.
#pragma once

#include <string>

#include "base/status.h"
#include "format/metadata.h"
#include "model/config.h"

namespace quipu {

// Norms before and behind each part, GELU with a gate, embeddings scaled by sqrt(width); scores
// divided by the root of query_pre_attn_scalar, which is the head's size, but in the 27B model (of
// `layers_of_27b` layers) embedding_length / head_count. GGUF has no key for it; quipu's own files
// do. ERRORS: kCorruptData for a scale that is not positive.
Status apply_gemma_settings(const Metadata& metadata, const std::string& architecture,
                            int layers_of_27b, ModelConfig& config);

}  // namespace quipu
