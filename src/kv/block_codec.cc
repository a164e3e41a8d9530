#include "kv/block_codec.h"

#include <xxhash.h>
#include <zstd.h>

#include <cstring>
#include <memory>

#include "base/check.h"

namespace quipu {

namespace {

constexpr int kLevel = 1;

// Buffers and contexts are reused: blocks come by the hundred.
struct Scratch {
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> compress{ZSTD_createCCtx(), ZSTD_freeCCtx};
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> expand{ZSTD_createDCtx(), ZSTD_freeDCtx};
  std::vector<uint8_t> planes, frame, packed;
};

Scratch& scratch() {
  thread_local Scratch instance;
  QUIPU_CHECK(instance.compress != nullptr && instance.expand != nullptr,
              "no memory for a zstd context");
  return instance;
}

// Element i's byte p goes to planes[p * elements + i].
template <int kBytes>
void split(const uint8_t* from, uint8_t* planes, size_t elements) {
  for (size_t i = 0; i < elements; ++i) {
    for (int p = 0; p < kBytes; ++p)
      planes[static_cast<size_t>(p) * elements + i] = from[i * kBytes + static_cast<size_t>(p)];
  }
}

template <int kBytes>
void join(const uint8_t* planes, uint8_t* to, size_t elements) {
  for (size_t i = 0; i < elements; ++i) {
    for (int p = 0; p < kBytes; ++p)
      to[i * kBytes + static_cast<size_t>(p)] = planes[static_cast<size_t>(p) * elements + i];
  }
}

// A plane in packed form: its size there, 4 bytes, then zstd's frame; or the plane itself, when
// that is not larger.
void pack_plane(std::span<const uint8_t> plane, Scratch& work) {
  work.frame.resize(ZSTD_compressBound(plane.size()));
  const size_t frame = ZSTD_compressCCtx(work.compress.get(), work.frame.data(), work.frame.size(),
                                         plane.data(), plane.size(), kLevel);
  const bool shrinks = !ZSTD_isError(frame) && frame < plane.size();
  const std::span<const uint8_t> kept =
      shrinks ? std::span<const uint8_t>(work.frame).first(frame) : plane;
  const auto size = static_cast<uint32_t>(kept.size());
  const auto* size_bytes = reinterpret_cast<const uint8_t*>(&size);
  work.packed.insert(work.packed.end(), size_bytes, size_bytes + sizeof size);
  work.packed.insert(work.packed.end(), kept.begin(), kept.end());
}

// Takes one plane off the front of `packed`. False when that is not what pack_plane() wrote.
bool unpack_plane(std::span<const uint8_t>& packed, std::span<uint8_t> plane, Scratch& work) {
  uint32_t size = 0;
  if (packed.size() < sizeof size) return false;
  std::memcpy(&size, packed.data(), sizeof size);
  packed = packed.subspan(sizeof size);
  if (size > packed.size() || size > plane.size()) return false;
  if (size == plane.size()) {
    std::memcpy(plane.data(), packed.data(), size);
  } else {
    const size_t expanded =
        ZSTD_decompressDCtx(work.expand.get(), plane.data(), plane.size(), packed.data(), size);
    if (ZSTD_isError(expanded) || expanded != plane.size()) return false;
  }
  packed = packed.subspan(size);
  return true;
}

}  // namespace

CompactBlock compact_block(std::span<const std::byte> bytes, int element_bytes) {
  QUIPU_CHECK(!bytes.empty() && bytes.size() < (size_t{1} << 31), "a block of {} bytes",
              bytes.size());
  QUIPU_CHECK((element_bytes == 1 || element_bytes == 2 || element_bytes == 4) &&
                  bytes.size() % static_cast<size_t>(element_bytes) == 0,
              "elements of {} bytes in a block of {}", element_bytes, bytes.size());
  Scratch& work = scratch();
  const auto* raw = reinterpret_cast<const uint8_t*>(bytes.data());
  CompactBlock block;
  block.checksum = XXH3_64bits(raw, bytes.size());
  block.raw_bytes = static_cast<uint32_t>(bytes.size());
  block.element_bytes = static_cast<uint8_t>(element_bytes);
  const uint8_t* planes = raw;
  const size_t plane_bytes = bytes.size() / static_cast<size_t>(element_bytes);
  if (element_bytes > 1) {
    work.planes.resize(bytes.size());
    if (element_bytes == 2) split<2>(raw, work.planes.data(), plane_bytes);
    if (element_bytes == 4) split<4>(raw, work.planes.data(), plane_bytes);
    planes = work.planes.data();
  }
  work.packed.clear();
  for (int p = 0; p < element_bytes; ++p)
    pack_plane({planes + static_cast<size_t>(p) * plane_bytes, plane_bytes}, work);
  block.bytes = work.packed;  // a copy without spare room
  return block;
}

bool expand_block(const CompactBlock& block, std::span<std::byte> into) {
  QUIPU_CHECK(into.size() == block.raw_bytes, "a block of {} bytes into {}", block.raw_bytes,
              into.size());
  auto* raw = reinterpret_cast<uint8_t*>(into.data());
  Scratch& work = scratch();
  work.planes.resize(into.size());
  uint8_t* planes = block.element_bytes > 1 ? work.planes.data() : raw;
  const size_t plane_bytes = into.size() / block.element_bytes;
  std::span<const uint8_t> packed = block.bytes;
  for (int p = 0; p < block.element_bytes; ++p) {
    if (!unpack_plane(packed, {planes + static_cast<size_t>(p) * plane_bytes, plane_bytes}, work))
      return false;
  }
  if (!packed.empty()) return false;
  if (block.element_bytes == 2) join<2>(planes, raw, plane_bytes);
  if (block.element_bytes == 4) join<4>(planes, raw, plane_bytes);
  return XXH3_64bits(raw, into.size()) == block.checksum;
}

}  // namespace quipu
