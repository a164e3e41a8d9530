#include "tensor/dtype.h"

#include <array>
#include <string>

#include "base/check.h"
#include "tensor/quant_blocks.h"

namespace quipu {

namespace {

constexpr std::array<DTypeTraits, 11> kTraits = {{
    {DType::kF32, "f32", 1, 4},
    {DType::kF16, "f16", 1, 2},
    {DType::kBF16, "bf16", 1, 2},
    {DType::kQ8_0, "q8_0", kSimpleBlock, sizeof(BlockQ8_0)},
    {DType::kQ4_0, "q4_0", kSimpleBlock, sizeof(BlockQ4_0)},
    {DType::kQ4_1, "q4_1", kSimpleBlock, sizeof(BlockQ4_1)},
    {DType::kQ5_0, "q5_0", kSimpleBlock, sizeof(BlockQ5_0)},
    {DType::kQ5_1, "q5_1", kSimpleBlock, sizeof(BlockQ5_1)},
    {DType::kQ4_K, "q4_k", kSuperBlock, sizeof(BlockQ4_K)},
    {DType::kQ5_K, "q5_k", kSuperBlock, sizeof(BlockQ5_K)},
    {DType::kQ6_K, "q6_k", kSuperBlock, sizeof(BlockQ6_K)},
}};

// Every id the format has given out, by id; empty where an id was withdrawn.
// SOURCE: GGUF specification, enum ggml_type.
constexpr std::array<std::string_view, 41> kGgufNames = {
    "f32",     "f16",   "q4_0",   "q4_1",  "",      "",       "q5_0", "q5_1",    "q8_0",
    "q8_1",    "q2_k",  "q3_k",   "q4_k",  "q5_k",  "q6_k",   "q8_k", "iq2_xxs", "iq2_xs",
    "iq3_xxs", "iq1_s", "iq4_nl", "iq3_s", "iq2_s", "iq4_xs", "i8",   "i16",     "i32",
    "i64",     "f64",   "iq1_m",  "bf16",  "",      "",       "",     "tq1_0",   "tq2_0",
    "",        "",      "",       "mxfp4", "nvfp4"};

char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (to_lower(a[i]) != to_lower(b[i])) return false;
  }
  return true;
}

}  // namespace

std::span<const DTypeTraits> all_dtypes() { return kTraits; }

const DTypeTraits& dtype_traits(DType dtype) {
  for (const DTypeTraits& traits : kTraits) {
    if (traits.dtype == dtype) return traits;
  }
  check_failed(__FILE__, __LINE__, "known dtype", std::to_string(static_cast<uint32_t>(dtype)));
}

std::string_view dtype_name(DType dtype) { return dtype_traits(dtype).name; }

std::optional<DType> dtype_from_gguf_id(uint32_t id) {
  for (const DTypeTraits& traits : kTraits) {
    if (static_cast<uint32_t>(traits.dtype) == id) return traits.dtype;
  }
  return std::nullopt;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeTraits& traits : kTraits) {
    if (equal_ignoring_case(traits.name, name)) return traits.dtype;
  }
  return std::nullopt;
}

std::string gguf_type_name(uint32_t id) {
  if (id < kGgufNames.size() && !kGgufNames[id].empty()) return std::string(kGgufNames[id]);
  return "type " + std::to_string(id);
}

std::string supported_dtype_names() {
  std::string names;
  for (const DTypeTraits& traits : kTraits) {
    if (!names.empty()) names += ", ";
    names += traits.name;
  }
  return names;
}

size_t row_bytes(DType dtype, size_t elements) {
  const DTypeTraits& traits = dtype_traits(dtype);
  QUIPU_CHECK(elements % traits.block_elements == 0,
              "a row of {} elements is not a multiple of {}'s block of {}", elements, traits.name,
              traits.block_elements);
  return elements / traits.block_elements * traits.block_bytes;
}

}  // namespace quipu
