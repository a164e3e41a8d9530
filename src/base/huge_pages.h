// Transparent huge pages: what large buffers ask for (MADV_HUGEPAGE), and what they got. Pages that
// an administrator set aside for others (MAP_HUGETLB) are left to them.
#pragma once

#include <cstddef>
#include <span>

namespace quipu {

// Buffers of at least this size begin at a multiple of it. UNITS: bytes.
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// How much of a large buffer lies in huge pages by now; pages come when they are first touched. An
// upper bound: mappings side by side are one entry to the kernel. UNITS: bytes; 0 where the system
// does not tell. SOURCE: proc(5), smaps.
size_t huge_page_bytes(std::span<const std::byte> buffer);

// Whether large buffers get huge pages here: tries it with one.
bool huge_pages_work();

}  // namespace quipu
