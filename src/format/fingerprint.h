// What a model is, in 128 bits: not where its file lies or when it was written, but what is in it.
//
// FingerprintedFile stands before a ModelFile and hashes the tensors as they are read to be loaded,
// so that nothing is read twice: name, type, shape, and the bytes, of large tensors 16 runs of
// 64 KiB spread evenly. With them goes the metadata that decides what a layer computes, which
// includes rope. Two models of one fingerprint give the same keys and values.
// THREADS: as ModelFile.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "format/model_file.h"

namespace quipu {

class FingerprintedFile : public ModelFile {
 public:
  explicit FingerprintedFile(std::unique_ptr<ModelFile> file) : file_(std::move(file)) {}

  const std::filesystem::path& path() const override { return file_->path(); }
  std::string container() const override { return file_->container(); }
  const Metadata& metadata() const override { return file_->metadata(); }
  std::span<const TensorInfo> tensors() const override { return file_->tensors(); }
  Result<TensorData> read(std::string_view name) const override;
  void release(std::string_view name) const override { file_->release(name); }
  std::optional<std::filesystem::path> tokenizer_directory() const override {
    return file_->tokenizer_directory();
  }

  // Of the metadata and of all tensors read so far, in hexadecimal.
  std::string fingerprint() const;

 private:
  std::unique_ptr<ModelFile> file_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, uint64_t, std::less<>> tensors_;  // name -> hash
};

}  // namespace quipu
