// Small owners for what the Rust library hands out, and its error codes as Status.
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "base/status.h"
#include "text/shim/quipu_text.h"

namespace quipu::text_internal {

inline QuipuBytes bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// OWNS: one buffer from the library.
class ShimBuffer {
 public:
  ShimBuffer() = default;
  ShimBuffer(const ShimBuffer&) = delete;
  ShimBuffer& operator=(const ShimBuffer&) = delete;
  ~ShimBuffer() { quipu_buffer_free(buffer_); }

  QuipuBuffer* out() { return &buffer_; }
  std::string_view view() const {
    return {reinterpret_cast<const char*>(buffer_.data), buffer_.size};
  }

 private:
  QuipuBuffer buffer_ = {nullptr, 0, 0};
};

inline Status status_of(int32_t code, const ShimBuffer& message, ErrorCode invalid) {
  const std::string text(message.view());
  switch (code) {
    case QUIPU_TEXT_OK:
      return Status::ok_status();
    case QUIPU_TEXT_INVALID:
      return Status(invalid, text);
    case QUIPU_TEXT_UNSUPPORTED:
      return Status(ErrorCode::kUnsupported, text);
    case QUIPU_TEXT_EXHAUSTED:
      return Status(ErrorCode::kResourceExhausted, text);
    default:
      return Status(ErrorCode::kInternal, text);
  }
}

// The library's panic hook is set once per process, before its first use.
inline void initialise() {
  static const bool done = [] {
    quipu_text_init();
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace quipu::text_internal
