// Element types of stored tensors, and how many bytes their rows take.
//
// A quantised type packs a fixed number of elements of one row into one block of bytes (byte
// layouts: tensor/quant_blocks.h). Ids are those of the GGUF file format. SOURCE: GGUF
// specification (ggml-org), section on tensor types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace quipu {

enum class DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct DTypeTraits {
  DType dtype;
  std::string_view name;  // as people write it in lower case: "q4_k"
  size_t block_elements;  // elements of a row that share one block; 1 for plain types
  size_t block_bytes;
};

// Every supported type, plain ones first.
std::span<const DTypeTraits> all_dtypes();

const DTypeTraits& dtype_traits(DType dtype);
std::string_view dtype_name(DType dtype);

// The supported type with this GGUF id or this name (any case), or nothing.
std::optional<DType> dtype_from_gguf_id(uint32_t id);
std::optional<DType> dtype_from_name(std::string_view name);

// The name of any GGUF type id, supported or not ("iq2_xxs"; "type 77" when unknown): for errors.
std::string gguf_type_name(uint32_t id);

// "f32, f16, bf16, ...": for errors.
std::string supported_dtype_names();

// UNITS: bytes of one row. REQUIRES: elements is a multiple of the type's block.
size_t row_bytes(DType dtype, size_t elements);

}  // namespace quipu
