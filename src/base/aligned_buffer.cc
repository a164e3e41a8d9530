#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/huge_pages.h"
#include "base/units.h"

namespace quipu {

Result<AlignedBuffer> AlignedBuffer::allocate(size_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  if (bytes > (size_t{1} << 60)) {
    return make_error(ErrorCode::kResourceExhausted, "cannot allocate {} bytes", bytes);
  }
  if (bytes < kHugePageBytes) {
    const size_t rounded = round_up(bytes, kAlignment);
    void* memory = std::aligned_alloc(kAlignment, rounded);
    if (memory == nullptr) {
      return make_error(ErrorCode::kResourceExhausted, "cannot allocate {}", format_bytes(bytes));
    }
    std::memset(memory, 0, rounded);
    buffer.data_ = static_cast<std::byte*>(memory);
    buffer.size_ = bytes;
    return buffer;
  }
  // One huge page more than needed, so that an aligned run lies in it; the rest goes back.
  const size_t rounded = round_up(bytes, kHugePageBytes);
  void* memory = mmap(nullptr, rounded + kHugePageBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return make_error(ErrorCode::kResourceExhausted, "cannot reserve {}: {}", format_bytes(bytes),
                      std::strerror(errno));
  }
  auto* begin = static_cast<std::byte*>(memory);
  const size_t before = round_up(reinterpret_cast<uintptr_t>(begin), kHugePageBytes) -
                        reinterpret_cast<uintptr_t>(begin);
  if (before > 0) munmap(begin, before);
  if (before < kHugePageBytes) munmap(begin + before + rounded, kHugePageBytes - before);
  madvise(begin + before, rounded, MADV_HUGEPAGE);  // a hint: failure only costs speed
  buffer.data_ = begin + before;
  buffer.size_ = bytes;
  buffer.mapped_bytes_ = rounded;
  return buffer;
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ == nullptr) return;
  if (mapped_bytes_ != 0) {
    munmap(data_, mapped_bytes_);
  } else {
    std::free(data_);
  }
}

}  // namespace quipu
