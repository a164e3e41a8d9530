// ModelFile: a model on disk, whatever its container: metadata and named tensors under GGUF's
// names.
//
// open_model_file() looks at what the path is:
//   - a GGUF file (versions 1 to 3; the first file of a split set finds the others),
//   - a Hugging Face directory (config.json + safetensors), whose config keys and tensor names are
//     translated and whose rows are permuted or transposed where GGUF's convention differs,
//     optionally quantised while loading.
// Reading copies nothing that the file holds in the wanted form already: views point into the map.
//
// Invariants after a successful open:
//   1. every tensor's bytes lie inside its file, and no two tensors of one file overlap;
//   2. every tensor has a supported type, 1 to 4 dimensions, and a row size that is a multiple of
//      the type's block;
//   3. names are unique and valid UTF-8.
// OWNS: the maps; views live as long as the ModelFile. THREADS: const methods are thread-safe.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/status.h"
#include "format/metadata.h"
#include "tensor/tensor_view.h"

namespace quipu {

struct TensorInfo {
  std::string name;  // GGUF name, such as "blk.0.attn_q.weight"
  DType dtype;       // as read() will give it
  Shape shape;       // outermost first
  size_t bytes;      // UNITS: bytes as read() will give them
};

// A tensor's bytes: a view into the file, or bytes converted on the way in. Either way the data
// is aligned for its element (4 bytes for f32, 2 for all others).
struct TensorData {
  TensorView view;
  AlignedBuffer owned;  // empty when the view points into the file
};

struct ModelFileOptions {
  // Convert the linear weights of a Hugging Face directory while loading, to the mix of types that
  // `quantize` would write for this type (format/weight_types.h). Norms, biases and embeddings keep
  // their type, but an embedding that is the head too (tied) is converted.
  std::optional<DType> weights;
  // Threads that one read() may use to convert a large tensor. REQUIRES: at least 1.
  int threads = 1;
};

class ModelFile {
 public:
  virtual ~ModelFile() = default;

  virtual const std::filesystem::path& path() const = 0;
  // "gguf v3", "safetensors": for `inspect` and messages.
  virtual std::string container() const = 0;
  virtual const Metadata& metadata() const = 0;
  virtual std::span<const TensorInfo> tensors() const = 0;

  // ERRORS: kNotFound with the name and the nearest existing names; kIo, kResourceExhausted.
  virtual Result<TensorData> read(std::string_view name) const = 0;

  // Tells the system that the file's pages of this tensor will not be read soon (after repacking).
  virtual void release(std::string_view name) const = 0;

  // A directory that holds tokenizer files (tokenizer.json, ...); nothing when the vocabulary, if
  // any, is in the metadata.
  virtual std::optional<std::filesystem::path> tokenizer_directory() const { return std::nullopt; }

  const TensorInfo* find(std::string_view name) const;
};

// ERRORS: kNotFound, kIo; kCorruptData for a broken file; kUnsupported for a type, version or
// architecture mapping that quipu does not know. Each names the file, the tensor or key, what was
// expected and what was found.
Result<std::unique_ptr<ModelFile>> open_model_file(const std::filesystem::path& path,
                                                   const ModelFileOptions& options = {});

}  // namespace quipu
