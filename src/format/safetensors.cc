#include "format/safetensors.h"

#include <algorithm>
#include <array>

#include "base/units.h"
#include "format/byte_reader.h"
#include "format/file_guess.h"
#include "format/json.h"
#include "format/printable.h"

namespace quipu {

namespace {

constexpr JsonLimits kHeaderLimits = {.bytes_max = 32 * kMiB, .depth_max = 4};

struct StoredType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> dtype;
};

constexpr std::array<StoredType, 15> kStoredTypes = {{
    {"F32", 4, DType::kF32},
    {"F16", 2, DType::kF16},
    {"BF16", 2, DType::kBF16},
    {"F64", 8, std::nullopt},
    {"I64", 8, std::nullopt},
    {"U64", 8, std::nullopt},
    {"I32", 4, std::nullopt},
    {"U32", 4, std::nullopt},
    {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},
    {"I8", 1, std::nullopt},
    {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},
    {"F8_E5M2", 1, std::nullopt},
}};

// A JSON array of non-negative integers.
std::optional<std::vector<uint64_t>> as_sizes(const Json& value) {
  if (!value.is_array()) return std::nullopt;
  std::vector<uint64_t> sizes;
  for (const Json& element : value) {
    if (!element.is_number_unsigned()) return std::nullopt;
    sizes.push_back(element.get<uint64_t>());
  }
  return sizes;
}

// Bytes that type and shape give; nothing when they do not fit in 63 bits.
std::optional<uint64_t> tensor_bytes(const std::vector<uint64_t>& shape, uint64_t element_bytes) {
  uint64_t bytes = element_bytes;
  for (const uint64_t dimension : shape) {
    if (dimension > static_cast<uint64_t>(INT64_MAX) ||
        __builtin_mul_overflow(bytes, dimension, &bytes) ||
        bytes > static_cast<uint64_t>(INT64_MAX)) {
      return std::nullopt;
    }
  }
  return bytes;
}

Result<SafetensorsEntry> read_entry(const std::string& name, const Json& value,
                                    uint64_t data_offset, uint64_t data_bytes,
                                    std::string_view file) {
  const auto corrupt = [&](std::string_view what) {
    return make_error(ErrorCode::kCorruptData, "{}: tensor '{}': {}", file, printable(name), what);
  };
  if (!value.is_object())
    return corrupt(fmt::format("expected an object, found {}", describe_json(value)));
  const auto type = value.find("dtype"), shape = value.find("shape"),
             offsets = value.find("data_offsets");
  if (type == value.end() || shape == value.end() || offsets == value.end()) {
    return corrupt("expected the keys dtype, shape and data_offsets");
  }
  if (!type->is_string())
    return corrupt(fmt::format("expected a string as dtype, found {}", describe_json(*type)));
  const std::string& type_name = type->get_ref<const std::string&>();
  const auto stored = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                                   [&](const StoredType& t) { return t.name == type_name; });
  if (stored == kStoredTypes.end()) {
    return make_error(
        ErrorCode::kUnsupported,
        "{}: tensor '{}' has type {}, which quipu cannot read; supported: F32, F16, BF16", file,
        printable(name), printable(type_name));
  }
  const auto sizes = as_sizes(*shape);
  constexpr size_t kDimensionsMax = 8;
  if (!sizes || sizes->size() > kDimensionsMax) {
    return corrupt(fmt::format("expected an array of up to {} sizes as shape, found {}",
                               kDimensionsMax, describe_json(*shape)));
  }
  const auto bytes = tensor_bytes(*sizes, stored->bytes);
  if (!bytes) return corrupt("its size does not fit in 63 bits");
  const auto range = as_sizes(*offsets);
  if (!range || range->size() != 2 || (*range)[0] > (*range)[1]) {
    return corrupt(
        fmt::format("expected data_offsets [begin, end], found {}", describe_json(*offsets)));
  }
  const uint64_t begin = (*range)[0], end = (*range)[1];
  if (end > data_bytes) {
    return corrupt(fmt::format(
        "its data ends at {}, past the {} bytes of data in the file; the file is damaged or "
        "incomplete, get it again",
        end, data_bytes));
  }
  const Shape dimensions(sizes->begin(), sizes->end());
  if (end - begin != *bytes) {
    return corrupt(fmt::format("{} of {} takes {} bytes, but data_offsets [{}, {}] hold {}",
                               type_name, shape_to_string(dimensions), *bytes, begin, end,
                               end - begin));
  }
  return SafetensorsEntry{name, type_name, stored->dtype, dimensions, data_offset + begin, *bytes};
}

}  // namespace

Result<std::vector<SafetensorsEntry>> parse_safetensors(std::span<const std::byte> bytes,
                                                        std::string_view file) {
  ByteReader reader(bytes, file);
  const std::string_view head = reader.ahead(kFileGuessBytes);
  QUIPU_ASSIGN_OR_RETURN(const uint64_t header_bytes, reader.read<uint64_t>("header length"));
  if (header_bytes > reader.remaining()) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: the header length at offset 0 is {}, but the file has {} bytes left; it "
                      "is no safetensors file, or damaged or incomplete{}",
                      file, header_bytes, reader.remaining(), file_guess(head));
  }
  QUIPU_ASSIGN_OR_RETURN(const std::string_view header, reader.read_bytes(header_bytes, "header"));
  QUIPU_ASSIGN_OR_RETURN(const Json json, parse_json_object(header, file, kHeaderLimits));
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") continue;
    if (name.empty())
      return make_error(ErrorCode::kCorruptData, "{}: a tensor has an empty name", file);
    QUIPU_ASSIGN_OR_RETURN(SafetensorsEntry entry,
                           read_entry(name, value, reader.offset(), reader.remaining(), file));
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
            });
  for (size_t i = 1; i < entries.size(); ++i) {
    const SafetensorsEntry &before = entries[i - 1], &after = entries[i];
    if (before.offset + before.bytes > after.offset) {
      return make_error(ErrorCode::kCorruptData,
                        "{}: tensors '{}' (bytes {} to {}) and '{}' (from {}) overlap", file,
                        printable(before.name), before.offset, before.offset + before.bytes,
                        printable(after.name), after.offset);
    }
  }
  return entries;
}

}  // namespace quipu
