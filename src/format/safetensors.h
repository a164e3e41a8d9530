// safetensors, the container: a JSON header over bytes in memory.
//
//   u64 header length | JSON header | data
//   header: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ...,
//            "__metadata__": {"key": "text", ...}}        offsets count from the start of the data
//
// Bytes from outside are untrusted: see ERRORS of parse_safetensors,
// tests/fuzz/safetensors_fuzz.cc. SOURCE: safetensors format description (huggingface). THREADS:
// pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace quipu {

struct SafetensorsEntry {
  std::string name;
  std::string type_name;       // as in the file: "BF16", "I64"
  std::optional<DType> dtype;  // nothing for types quipu does not compute with
  Shape shape;                 // outermost first; may be empty or hold zeros
  uint64_t offset;             // UNITS: bytes from the start of the file
  uint64_t bytes;
};

// The tensors of a whole safetensors file held (or mapped) in memory, by offset. Ranges lie inside
// the file, do not overlap, and have the size that type and shape give.
// ERRORS: kCorruptData for anything that breaks the format; kUnsupported for an unknown type;
// kResourceExhausted for a header over 32 MiB.
Result<std::vector<SafetensorsEntry>> parse_safetensors(std::span<const std::byte> bytes,
                                                        std::string_view file);

}  // namespace quipu
