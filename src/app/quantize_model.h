// quantize_model: writes any model that quipu reads as one GGUF file of another type.
//
// The types of the tensors follow format/weight_types.h (mixed_dtype), so "q4_k" gives the mix that
// other tools call Q4_K_M. The file is GGUF version 3, made to be loaded by other engines too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

#include "base/status.h"
#include "format/gguf_writer.h"
#include "format/model_file.h"

namespace quipu {

// How far the writing of a model file has come.
struct WriteProgress {
  std::string_view tensor;  // done
  DType from;
  DType to;
  size_t tensors_done;
  size_t tensors_total;
  uint64_t bytes_done;  // UNITS: bytes written
  uint64_t bytes_total;
};

// Called after each tensor, on the calling thread; false stops the work.
using WriteProgressCallback = std::function<bool(const WriteProgress&)>;

struct QuantizeOptions {
  DType type = DType::kQ8_0;
  int threads = 1;
  // Tokenizer keys ("tokenizer.ggml.tokens", ...) for an input whose metadata has no vocabulary, a
  // Hugging Face directory; they replace keys of the same name. A GGUF's own keys are carried over.
  MetadataEntries tokenizer_metadata;
  WriteProgressCallback progress;
};

// Memory: one converted input tensor and a panel of output rows. `out` appears only when complete.
// ERRORS: kResourceExhausted (the disk has not enough room, said before the work where that can be
// known), kIo, kCancelled by the progress callback; those of ModelFile::read.
// REQUIRES: options.threads >= 1.
Status quantize_model(const ModelFile& in, const std::filesystem::path& out,
                      const QuantizeOptions& options);

// Fails with kResourceExhausted when the file system of `out` has less room than `bytes`.
Status check_room_for(const std::filesystem::path& out, uint64_t bytes);

// Bytes of a GGUF file with this header and these tensors.
uint64_t gguf_file_bytes(const MetadataEntries& metadata, std::span<const TensorInfo> tensors);

}  // namespace quipu
