// GgufWriter: writes a GGUF version 3 file tensor by tensor; memory use is the header's.
//
// Value types follow what other engines expect of the usual keys: uint64 values become u32 (u64
// when larger), int64 values i32 (i64 when larger), doubles f32; arrays likewise by their largest
// element. The file appears under its name only when finish() succeeded (base/file.h). THREADS:
// thread-compatible.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "format/metadata.h"
#include "format/model_file.h"

namespace quipu {

using MetadataEntries = std::vector<std::pair<std::string, MetadataValue>>;

// Header, metadata, tensor table and the padding before the data, for tensors whose data follow in
// this order, each padded to the alignment (general.alignment of `metadata`, 32 without).
// REQUIRES: 1 to 4 dimensions and whole blocks per row for each tensor; a power of two alignment.
std::string gguf_header(const MetadataEntries& metadata, std::span<const TensorInfo> tensors);

class GgufWriter {
 public:
  // Writes everything before the data. ERRORS: kIo, kResourceExhausted.
  static Result<GgufWriter> create(const std::filesystem::path& path,
                                   const MetadataEntries& metadata,
                                   std::vector<TensorInfo> tensors);

  // The next bytes of the current tensor; after its last byte comes the next tensor.
  // REQUIRES: no more bytes than the tensor has left. ERRORS: kResourceExhausted (disk full), kIo.
  Status append(std::span<const std::byte> bytes);

  // The whole next tensor, made by `threads` threads: make_rows(first, count, out) fills rows first
  // to first + count - 1 and may run on several threads at once for different rows. Memory: one
  // panel of rows, at most 64 MiB or one row per thread.
  // REQUIRES: the tensor has no bytes yet. ERRORS: kResourceExhausted, kIo.
  Status append_rows(int threads,
                     const std::function<void(int64_t, int64_t, std::byte*)>& make_rows);

  // REQUIRES: every tensor is complete. ERRORS: kResourceExhausted, kIo.
  Status finish();

  // The tensor that is written next. REQUIRES: not all are complete.
  const TensorInfo& current() const { return tensors_[current_]; }

  uint64_t bytes_written() const { return file_.bytes_written(); }

 private:
  GgufWriter(AtomicFileWriter file, std::vector<TensorInfo> tensors, uint64_t alignment)
      : file_(std::move(file)), tensors_(std::move(tensors)), alignment_(alignment) {}

  AtomicFileWriter file_;
  std::vector<TensorInfo> tensors_;
  uint64_t alignment_;
  size_t current_ = 0;
  uint64_t current_bytes_ = 0;  // of tensors_[current_], written
};

}  // namespace quipu
