#include <algorithm>
#include <limits>
#include <unordered_set>

#include "base/units.h"
#include "base/utf8.h"
#include "format/byte_reader.h"
#include "format/file_guess.h"
#include "format/gguf.h"
#include "format/printable.h"

namespace quipu {

namespace {

constexpr uint64_t kNameBytesMax = 65535;  // GGUF's limit for keys; tensor names get the same
constexpr uint64_t kAlignmentMax = 1 << 20;
constexpr uint32_t kDimensionsMax = 4;

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string_view file)
      : reader_(bytes, file), file_(file), file_bytes_(bytes.size()) {}

  Result<GgufContents> parse() {
    QUIPU_RETURN_IF_ERROR(read_header());
    QUIPU_RETURN_IF_ERROR(read_metadata());
    QUIPU_RETURN_IF_ERROR(read_tensor_table());
    QUIPU_RETURN_IF_ERROR(place_tensors());
    return std::move(contents_);
  }

 private:
  template <typename... Args>
  Status corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::kCorruptData, "{}: {}", file_,
                      fmt::format(format, std::forward<Args>(args)...));
  }

  // A count, length or dimension: u32 in version 1, u64 later.
  Result<uint64_t> read_size(std::string_view what) {
    if (contents_.version >= 2) return reader_.read<uint64_t>(what);
    QUIPU_ASSIGN_OR_RETURN(const uint32_t narrow, reader_.read<uint32_t>(what));
    return uint64_t{narrow};
  }
  uint64_t size_bytes() const { return contents_.version >= 2 ? 8 : 4; }

  Result<std::string_view> read_string(std::string_view what) {
    QUIPU_ASSIGN_OR_RETURN(const uint64_t size, read_size(what));
    return reader_.read_bytes(size, what);
  }

  // A key or tensor name: bounded and valid UTF-8.
  Result<std::string> read_name(std::string_view what) {
    const uint64_t offset = reader_.offset();
    QUIPU_ASSIGN_OR_RETURN(const std::string_view name, read_string(what));
    if (name.empty() || name.size() > kNameBytesMax) {
      return corrupt("{} at offset {}: expected 1 to {} bytes, found {}", what, offset,
                     kNameBytesMax, name.size());
    }
    if (const size_t valid = valid_utf8_prefix(name); valid != name.size()) {
      return corrupt("{} '{}' at offset {}: not valid UTF-8 at byte {}", what, printable(name),
                     offset, valid);
    }
    return std::string(name);
  }

  Status read_header() {
    const std::string_view head = reader_.ahead(kFileGuessBytes);
    const auto magic = reader_.read_bytes(4, "magic");
    if (!magic.ok()) return magic.status();
    if (*magic != kGgufMagic) {
      return corrupt("not a GGUF file: expected the magic 'GGUF' at offset 0, found '{}'{}",
                     escaped_bytes(*magic), file_guess(head));
    }
    QUIPU_ASSIGN_OR_RETURN(contents_.version, reader_.read<uint32_t>("version"));
    if (contents_.version < 1 || contents_.version > 3) {
      const bool swapped = (contents_.version & 0xFFFF) == 0 && contents_.version != 0;
      return make_error(
          ErrorCode::kUnsupported, "{}: GGUF version {}: quipu reads versions 1 to 3{}", file_,
          contents_.version,
          swapped ? "; the file seems to be big-endian, convert it to little-endian" : "");
    }
    QUIPU_ASSIGN_OR_RETURN(tensor_count_, read_size("tensor count"));
    QUIPU_ASSIGN_OR_RETURN(key_count_, read_size("metadata key count"));
    QUIPU_RETURN_IF_ERROR(
        reader_.check_count(key_count_, size_bytes() + 1 + 4 + 1, "metadata keys"));
    return reader_.check_count(tensor_count_, min_tensor_bytes(), "tensor table");
  }

  // Name length, one byte of name, dimension count, one dimension, type, offset.
  uint64_t min_tensor_bytes() const { return size_bytes() + 1 + 4 + size_bytes() + 4 + 8; }

  Status read_metadata() {
    for (uint64_t i = 0; i < key_count_; ++i) {
      const uint64_t offset = reader_.offset();
      QUIPU_ASSIGN_OR_RETURN(std::string key, read_name("metadata key"));
      if (contents_.metadata.contains(key)) {
        return corrupt("metadata key '{}' at offset {}: appears twice", printable(key), offset);
      }
      QUIPU_ASSIGN_OR_RETURN(const GgufType type, read_value_type(key));
      auto value = type == GgufType::kArray ? read_array(key) : read_scalar(type, key);
      if (!value.ok()) return value.status();
      contents_.metadata.set(std::move(key), std::move(value).value());
    }
    return Status::ok_status();
  }

  Result<GgufType> read_value_type(const std::string& key) {
    const uint64_t offset = reader_.offset();
    QUIPU_ASSIGN_OR_RETURN(const uint32_t id, reader_.read<uint32_t>("metadata value type"));
    if (id > static_cast<uint32_t>(GgufType::kFloat64)) {
      return corrupt("metadata key '{}' at offset {}: expected a value type of 0 to 12, found {}",
                     printable(key), offset, id);
    }
    return static_cast<GgufType>(id);
  }

  template <typename Stored, typename Held>
  Result<MetadataValue> read_number(const std::string& key) {
    QUIPU_ASSIGN_OR_RETURN(const Stored stored, reader_.read<Stored>(key));
    return MetadataValue(static_cast<Held>(stored));
  }

  Result<bool> read_bool(const std::string& key) {
    const uint64_t offset = reader_.offset();
    QUIPU_ASSIGN_OR_RETURN(const uint8_t byte, reader_.read<uint8_t>(key));
    if (byte > 1) {
      return corrupt("metadata key '{}' at offset {}: expected a bool of 0 or 1, found {}",
                     printable(key), offset, byte);
    }
    return byte == 1;
  }

  Result<MetadataValue> read_scalar(GgufType type, const std::string& key) {
    switch (type) {
      case GgufType::kUint8: return read_number<uint8_t, uint64_t>(key);
      case GgufType::kInt8: return read_number<int8_t, int64_t>(key);
      case GgufType::kUint16: return read_number<uint16_t, uint64_t>(key);
      case GgufType::kInt16: return read_number<int16_t, int64_t>(key);
      case GgufType::kUint32: return read_number<uint32_t, uint64_t>(key);
      case GgufType::kInt32: return read_number<int32_t, int64_t>(key);
      case GgufType::kUint64: return read_number<uint64_t, uint64_t>(key);
      case GgufType::kInt64: return read_number<int64_t, int64_t>(key);
      case GgufType::kFloat32: return read_number<float, double>(key);
      case GgufType::kFloat64: return read_number<double, double>(key);
      case GgufType::kBool: {
        QUIPU_ASSIGN_OR_RETURN(const bool value, read_bool(key));
        return MetadataValue(value);
      }
      case GgufType::kString: {
        QUIPU_ASSIGN_OR_RETURN(const std::string_view text, read_string(key));
        return MetadataValue(std::string(text));
      }
      case GgufType::kArray: break;
    }
    return make_error(ErrorCode::kUnsupported,
                      "{}: metadata key '{}': arrays inside arrays are not supported", file_,
                      printable(key));
  }

  template <typename Stored, typename Held>
  Result<MetadataValue> read_numbers(uint64_t count, const std::string& key) {
    QUIPU_RETURN_IF_ERROR(reader_.check_count(count, sizeof(Stored), key));
    std::vector<Held> values;
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      values.push_back(static_cast<Held>(reader_.read<Stored>(key).value()));
    }
    return MetadataValue(std::move(values));
  }

  Result<MetadataValue> read_bools(uint64_t count, const std::string& key) {
    QUIPU_RETURN_IF_ERROR(reader_.check_count(count, 1, key));
    std::vector<bool> values;
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      QUIPU_ASSIGN_OR_RETURN(const bool value, read_bool(key));
      values.push_back(value);
    }
    return MetadataValue(std::move(values));
  }

  Result<MetadataValue> read_strings(uint64_t count, const std::string& key) {
    QUIPU_RETURN_IF_ERROR(reader_.check_count(count, size_bytes(), key));
    std::vector<std::string> values;
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      QUIPU_ASSIGN_OR_RETURN(const std::string_view text, read_string(key));
      values.emplace_back(text);
    }
    return MetadataValue(std::move(values));
  }

  Result<MetadataValue> read_array(const std::string& key) {
    QUIPU_ASSIGN_OR_RETURN(const GgufType type, read_value_type(key));
    QUIPU_ASSIGN_OR_RETURN(const uint64_t count, read_size(key));
    switch (type) {
      case GgufType::kUint8: return read_numbers<uint8_t, uint64_t>(count, key);
      case GgufType::kInt8: return read_numbers<int8_t, int64_t>(count, key);
      case GgufType::kUint16: return read_numbers<uint16_t, uint64_t>(count, key);
      case GgufType::kInt16: return read_numbers<int16_t, int64_t>(count, key);
      case GgufType::kUint32: return read_numbers<uint32_t, uint64_t>(count, key);
      case GgufType::kInt32: return read_numbers<int32_t, int64_t>(count, key);
      case GgufType::kUint64: return read_numbers<uint64_t, uint64_t>(count, key);
      case GgufType::kInt64: return read_numbers<int64_t, int64_t>(count, key);
      case GgufType::kFloat32: return read_numbers<float, double>(count, key);
      case GgufType::kFloat64: return read_numbers<double, double>(count, key);
      case GgufType::kBool: return read_bools(count, key);
      case GgufType::kString: return read_strings(count, key);
      case GgufType::kArray: break;
    }
    return read_scalar(GgufType::kArray, key);  // refuses, naming the key
  }

  Status read_tensor_table() {
    QUIPU_RETURN_IF_ERROR(reader_.check_count(tensor_count_, min_tensor_bytes(), "tensor table"));
    contents_.tensors.reserve(tensor_count_);
    std::unordered_set<std::string> names;
    for (uint64_t i = 0; i < tensor_count_; ++i) {
      const uint64_t offset = reader_.offset();
      QUIPU_ASSIGN_OR_RETURN(GgufTensor tensor, read_tensor_info());
      if (!names.insert(tensor.name).second) {
        return corrupt("tensor '{}' at offset {}: appears twice", printable(tensor.name), offset);
      }
      contents_.tensors.push_back(std::move(tensor));
    }
    return Status::ok_status();
  }

  Result<GgufTensor> read_tensor_info() {
    GgufTensor tensor;
    QUIPU_ASSIGN_OR_RETURN(tensor.name, read_name("tensor name"));
    const std::string shown = printable(tensor.name);
    QUIPU_ASSIGN_OR_RETURN(const uint32_t n_dims, reader_.read<uint32_t>("tensor dimension count"));
    if (n_dims < 1 || n_dims > kDimensionsMax) {
      return corrupt("tensor '{}': expected 1 to {} dimensions, found {}", shown, kDimensionsMax,
                     n_dims);
    }
    uint64_t elements = 1;
    for (uint32_t d = 0; d < n_dims; ++d) {
      QUIPU_ASSIGN_OR_RETURN(const uint64_t dim, read_size("tensor dimension"));
      // Every stored type takes at least half a byte for an element: a real count is below 2^62.
      if (dim == 0 || __builtin_mul_overflow(elements, dim, &elements) || elements >> 62 != 0) {
        return corrupt(
            "tensor '{}': dimension {} is {}: expected 1 or more, and fewer than 2^62 elements in "
            "all",
            shown, d, dim);
      }
      tensor.shape.push_back(static_cast<int64_t>(dim));
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    QUIPU_ASSIGN_OR_RETURN(const uint32_t type_id, reader_.read<uint32_t>("tensor type"));
    const auto dtype = dtype_from_gguf_id(type_id);
    if (!dtype) {
      return make_error(ErrorCode::kUnsupported,
                        "{}: tensor '{}' has type {}, which quipu cannot read; supported: {}",
                        file_, shown, gguf_type_name(type_id), supported_dtype_names());
    }
    tensor.dtype = *dtype;
    const DTypeTraits& traits = dtype_traits(*dtype);
    const auto columns = static_cast<uint64_t>(tensor.shape.back());
    if (columns % traits.block_elements != 0) {
      return corrupt("tensor '{}' {}: a row of {} elements is not a multiple of {}'s block of {}",
                     shown, shape_to_string(tensor.shape), columns, traits.name,
                     traits.block_elements);
    }
    if (__builtin_mul_overflow(elements / traits.block_elements, traits.block_bytes,
                               &tensor.bytes)) {
      return corrupt("tensor '{}' {}: its size does not fit in 64 bits", shown,
                     shape_to_string(tensor.shape));
    }
    QUIPU_ASSIGN_OR_RETURN(tensor.offset, reader_.read<uint64_t>("tensor offset"));
    return tensor;
  }

  Result<uint64_t> alignment() const {
    const MetadataValue* value = contents_.metadata.find("general.alignment");
    if (value == nullptr) return kGgufDefaultAlignment;
    const auto alignment = contents_.metadata.get_int("general.alignment");
    if (!alignment || *alignment < 1 || *alignment > static_cast<int64_t>(kAlignmentMax) ||
        (*alignment & (*alignment - 1)) != 0) {
      return corrupt("metadata key 'general.alignment': expected a power of two up to {}, found {}",
                     kAlignmentMax, describe_metadata_value(*value));
    }
    return static_cast<uint64_t>(*alignment);
  }

  // Turns offsets into file offsets and checks ranges, alignment and overlap.
  Status place_tensors() {
    QUIPU_ASSIGN_OR_RETURN(const uint64_t align, alignment());
    contents_.data_offset = round_up(reader_.offset(), align);
    const uint64_t data_bytes =
        file_bytes_ > contents_.data_offset ? file_bytes_ - contents_.data_offset : 0;
    for (GgufTensor& tensor : contents_.tensors) {
      if (tensor.offset % align != 0) {
        return corrupt("tensor '{}': offset {} is not a multiple of the alignment {}",
                       printable(tensor.name), tensor.offset, align);
      }
      if (tensor.bytes > data_bytes || tensor.offset > data_bytes - tensor.bytes) {
        return corrupt(
            "tensor '{}' {} {}: its {} bytes at data offset {} end past the end of the file, which "
            "holds {} "
            "bytes of data; the file is damaged or incomplete, get it again",
            printable(tensor.name), dtype_name(tensor.dtype), shape_to_string(tensor.shape),
            tensor.bytes, tensor.offset, data_bytes);
      }
      tensor.offset += contents_.data_offset;
    }
    return check_overlap();
  }

  Status check_overlap() const {
    std::vector<const GgufTensor*> by_offset;
    by_offset.reserve(contents_.tensors.size());
    for (const GgufTensor& tensor : contents_.tensors) by_offset.push_back(&tensor);
    std::sort(by_offset.begin(), by_offset.end(),
              [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < by_offset.size(); ++i) {
      const GgufTensor& before = *by_offset[i - 1];
      const GgufTensor& after = *by_offset[i];
      if (before.offset + before.bytes > after.offset) {
        return corrupt("tensors '{}' (bytes {} to {}) and '{}' (from {}) overlap",
                       printable(before.name), before.offset, before.offset + before.bytes,
                       printable(after.name), after.offset);
      }
    }
    return Status::ok_status();
  }

  ByteReader reader_;
  std::string file_;
  uint64_t file_bytes_;
  GgufContents contents_;
  uint64_t tensor_count_ = 0;
  uint64_t key_count_ = 0;
};

}  // namespace

Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, std::string_view file) {
  return GgufParser(bytes, file).parse();
}

}  // namespace quipu
