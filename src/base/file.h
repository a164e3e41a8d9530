// Files: memory maps for reading, whole-file reads with a limit, and atomic writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "base/status.h"

namespace quipu {

// A read-only memory map of a whole regular file.
// OWNS: the mapping; views into bytes() live as long as it. THREADS: immutable, thread-safe.
class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    MappedFile moved(std::move(other));
    swap(moved);
    return *this;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // ERRORS: kNotFound (no such file), kIo (not a regular file, not readable, cannot be mapped).
  static Result<MappedFile> open(const std::filesystem::path& path);

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Tells the system that these bytes will not be read soon, so that their pages can go.
  void release(std::span<const std::byte> part) const;

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(path_, other.path_);
  }

  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};

// The whole file as text. ERRORS: kNotFound, kIo, kResourceExhausted when over `bytes_max`.
Result<std::string> read_file(const std::filesystem::path& path, uint64_t bytes_max);

// A file that appears under its name only when complete: written as `path.tmp-<pid>`, then renamed.
// Without finish() the temporary file is removed.
// THREADS: thread-compatible.
class AtomicFileWriter {
 public:
  AtomicFileWriter(AtomicFileWriter&& other) noexcept;
  AtomicFileWriter(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(AtomicFileWriter&&) = delete;
  ~AtomicFileWriter();

  // ERRORS: kIo with the system's reason (no such folder, no permission, read-only).
  static Result<AtomicFileWriter> create(const std::filesystem::path& path);

  // Appends. ERRORS: kResourceExhausted when the disk is full, kIo otherwise.
  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view text);

  // Flushes to disk and renames into place.
  Status finish();

  uint64_t bytes_written() const { return bytes_written_; }

 private:
  AtomicFileWriter() = default;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  uint64_t bytes_written_ = 0;
};

}  // namespace quipu
