// GGUF, the container: header, metadata and tensor table over bytes in memory; and its writer.
//
//   "GGUF" | u32 version | tensor count | key count
//   keys:    string key | u32 type | value                       (arrays: u32 type | count |
//   values) tensors: string name | u32 n_dims | n_dims dims | u32 type | u64 offset padding to
//   general.alignment (32 unless set), then the data; offsets count from its start
//
// Counts, lengths and dims are u32 in version 1 and u64 in versions 2 and 3; a string is its length
// and bytes. Dims are written innermost first; here they are turned (tensor/tensor_view.h).
// Bytes from outside are untrusted: see the ERRORS of parse_gguf, and tests/fuzz/gguf_fuzz.cc.
// SOURCE: GGUF specification (ggml-org). THREADS: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "format/metadata.h"
#include "tensor/tensor_view.h"

namespace quipu {

inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr uint64_t kGgufDefaultAlignment = 32;

// GGUF's value types by id.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

struct GgufTensor {
  std::string name;
  DType dtype;
  Shape shape;
  uint64_t offset;  // UNITS: bytes from the start of the file
  uint64_t bytes;
};

struct GgufContents {
  uint32_t version = 0;
  Metadata metadata;
  std::vector<GgufTensor> tensors;  // in file order
  uint64_t data_offset = 0;         // UNITS: bytes from the start of the file
};

// Reads the header, metadata and tensor table of a whole GGUF file held (or mapped) in memory.
// After success the invariants of format/model_file.h hold for `tensors`.
// ERRORS: kCorruptData for anything that breaks the format; kUnsupported for another version, a
// big-endian file, nested arrays, or a tensor type that quipu cannot read.
Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, std::string_view file);

}  // namespace quipu
