// CompactBlock: the bytes of a KV block in less room, and back to the bit.
//
// Neighbouring floats have similar exponents and unlike mantissas, so their bytes are first put
// into planes (all first bytes, all second bytes, ...), then compressed plane by plane with zstd,
// level 1. Planes that do not shrink are kept as they are. XXH3-64 over the original bytes is
// checked on the way back: a block is either what it was or an error. THREADS: plain functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quipu {

struct CompactBlock {
  uint64_t checksum = 0;   // XXH3-64 of the original bytes
  uint32_t raw_bytes = 0;  // UNITS: bytes, of the original
  uint8_t element_bytes = 1;
  std::vector<uint8_t> bytes;
};

// REQUIRES: bytes is not empty and smaller than 2 GiB; element_bytes is 1, 2 or 4 and divides it.
CompactBlock compact_block(std::span<const std::byte> bytes, int element_bytes);

// Writes the original bytes. False, and `into` is undefined, when they are not the original ones.
// SHAPE: into: [block.raw_bytes].
[[nodiscard]] bool expand_block(const CompactBlock& block, std::span<std::byte> into);

}  // namespace quipu
