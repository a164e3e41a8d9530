// ByteReader: a little-endian cursor over untrusted bytes that cannot leave them.
//
// Every read says what it is reading; a read past the end fails with the file, the offset, what was
// wanted and what is left. Counts are compared with the bytes that remain before anything is
// reserved (check_count), so a file can never make its reader allocate more than a small multiple
// of its own size.
// OWNS: nothing. THREADS: thread-compatible.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/status.h"

namespace quipu {

class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view file)
      : bytes_(bytes), file_(file) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }
  std::string_view file() const { return file_; }

  // A number stored as little endian. ERRORS: kCorruptData when fewer bytes are left.
  template <typename T>
  Result<T> read(std::string_view what) {
    static_assert(std::is_arithmetic_v<T>);
    if (remaining() < sizeof(T)) return truncated(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof value);
    offset_ += sizeof value;
    return value;
  }

  // The next `size` bytes. ERRORS: kCorruptData when fewer are left.
  Result<std::string_view> read_bytes(uint64_t size, std::string_view what) {
    if (remaining() < size) return truncated(what, size);
    const std::string_view view(reinterpret_cast<const char*>(bytes_.data()) + offset_, size);
    offset_ += size;
    return view;
  }

  // The next bytes, at most `size` of them, which stay to be read.
  std::string_view ahead(uint64_t size) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + offset_, std::min(size, remaining())};
  }

  // Fails unless `count` items of at least `bytes_min` bytes each can still follow.
  Status check_count(uint64_t count, uint64_t bytes_min, std::string_view what) const {
    if (count <= remaining() / bytes_min) return Status::ok_status();
    return make_error(
        ErrorCode::kCorruptData,
        "{}: {} at offset {}: the count is {}, but the {} bytes that are left hold {} at "
        "most; the file is damaged or incomplete, get it again",
        file_, what, offset_, count, remaining(), remaining() / bytes_min);
  }

 private:
  Status truncated(std::string_view what, uint64_t wanted) const {
    return make_error(
        ErrorCode::kCorruptData,
        "{}: {} at offset {}: expected {} more bytes, found {}; the file is damaged or "
        "incomplete, get it again",
        file_, what, offset_, wanted, remaining());
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  uint64_t offset_ = 0;
};

}  // namespace quipu
