#include "base/huge_pages.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <sstream>
#include <string>

#include "base/aligned_buffer.h"
#include "base/file.h"
#include "base/units.h"

namespace quipu {

size_t huge_page_bytes(std::span<const std::byte> buffer) {
  const Result<std::string> text = read_file("/proc/self/smaps", 64 * kMiB);
  if (!text.ok()) return 0;
  const auto begin = reinterpret_cast<uintptr_t>(buffer.data());
  std::istringstream lines(*text);
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    uintptr_t from = 0, to = 0;
    size_t kib = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2) {
      inside = from <= begin && begin < to;
    } else if (inside && std::sscanf(line.c_str(), "AnonHugePages: %zu kB", &kib) == 1) {
      return std::min(kib * kKiB, round_up(buffer.size(), kHugePageBytes));
    }
  }
  return 0;
}

bool huge_pages_work() {
  Result<AlignedBuffer> trial = AlignedBuffer::allocate(kHugePageBytes);
  if (!trial.ok()) return false;
  trial->data()[0] = std::byte{1};
  return huge_page_bytes(trial->bytes()) == kHugePageBytes;
}

}  // namespace quipu
