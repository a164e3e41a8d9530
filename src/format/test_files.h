// Helpers for the tests of format/: byte builders and a folder that goes away.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "base/status.h"

namespace quipu {

inline std::span<const std::byte> as_byte_span(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> count = 0;
    path_ = std::filesystem::temp_directory_path() /
            fmt::format("quipu-format-{}-{}", getpid(), count++);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

// Builds GGUF bytes of any version, right or wrong.
class GgufBytes {
 public:
  explicit GgufBytes(uint32_t version, uint64_t tensors, uint64_t keys,
                     std::string_view magic = "GGUF")
      : version_(version) {
    bytes_ = magic;
    number(version);
    size(tensors);
    size(keys);
  }

  template <typename T>
  GgufBytes& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& size(uint64_t value) {
    return version_ == 1 ? number(static_cast<uint32_t>(value)) : number(value);
  }
  GgufBytes& string(std::string_view text) {
    size(text.size());
    bytes_ += text;
    return *this;
  }
  GgufBytes& key(std::string_view name, uint32_t type) { return string(name).number(type); }
  GgufBytes& tensor(std::string_view name, std::initializer_list<uint64_t> dims_innermost_first,
                    uint32_t type, uint64_t offset) {
    string(name).number(static_cast<uint32_t>(dims_innermost_first.size()));
    for (const uint64_t dim : dims_innermost_first) size(dim);
    return number(type).number(offset);
  }
  GgufBytes& pad(size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  GgufBytes& data(size_t count) {
    for (size_t i = 0; i < count; ++i) bytes_.push_back(static_cast<char>(i));
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  uint32_t version_;
  std::string bytes_;
};

// The bytes of a safetensors file with this header.
inline std::string safetensors_bytes(std::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  bytes += header;
  for (size_t i = 0; i < data_bytes; ++i) bytes.push_back(static_cast<char>(i * 7));
  return bytes;
}

// EXPECTs that `status` is an error of this code whose message holds every part.
inline void expect_error(const Status& status, ErrorCode code,
                         std::initializer_list<std::string_view> parts) {
  EXPECT_EQ(error_code_name(status.code()), error_code_name(code)) << status.message();
  for (const std::string_view part : parts) {
    EXPECT_NE(status.message().find(part), std::string::npos)
        << "no '" << part << "' in: " << status.message();
  }
}

}  // namespace quipu
