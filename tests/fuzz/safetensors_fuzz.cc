// Any bytes: parse_safetensors either refuses them or gives ranges inside the file, sized as type
// and shape say, without overlap.
#include <cstdint>
#include <span>

#include "base/utf8.h"
#include "format/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quipu;
  const auto entries = parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz.safetensors");
  if (!entries.ok()) {
    QUIPU_CHECK(is_valid_utf8(entries.status().message()), "error message");
    return 0;
  }
  uint64_t end = 0;
  for (const SafetensorsEntry& entry : *entries) {
    QUIPU_CHECK(entry.bytes <= size && entry.offset <= size - entry.bytes, "{}", entry.name);
    QUIPU_CHECK(entry.bytes == 0 || entry.offset >= end, "{}", entry.name);
    end = std::max(end, entry.offset + entry.bytes);
    if (entry.dtype) {
      const auto elements = static_cast<uint64_t>(element_count(entry.shape));
      QUIPU_CHECK(entry.bytes == elements * dtype_traits(*entry.dtype).block_bytes, "{}",
                  entry.name);
    }
  }
  return 0;
}
