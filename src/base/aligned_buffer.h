// AlignedBuffer: one owned, 64-byte aligned run of memory, reserved once and never moved.
//
// Small buffers come from the C allocator; from 2 MiB on they are anonymous mappings, so pages are
// touched on first use and huge pages can back them (MADV_HUGEPAGE: asked for, never required).
// OWNS: the memory; move-only. THREADS: thread-compatible.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/status.h"

namespace quipu {

class AlignedBuffer {
 public:
  static constexpr size_t kAlignment = 64;

  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    AlignedBuffer moved(std::move(other));
    swap(moved);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  // `bytes` zero bytes. ERRORS: kResourceExhausted when the system refuses.
  static Result<AlignedBuffer> allocate(size_t bytes);

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() { return {data_, size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapped_bytes_, other.mapped_bytes_);
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_bytes_ = 0;  // 0: from the C allocator
};

}  // namespace quipu
