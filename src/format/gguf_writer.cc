#include "format/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <thread>
#include <type_traits>

#include "base/aligned_buffer.h"
#include "base/units.h"
#include "format/gguf.h"

namespace quipu {

namespace {

class HeaderBuilder {
 public:
  template <typename T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void string(std::string_view text) {
    number<uint64_t>(text.size());
    bytes_.append(text);
  }
  void type(GgufType type) { number(static_cast<uint32_t>(type)); }

  void value(bool held) {
    type(GgufType::kBool);
    number<uint8_t>(held);
  }
  void value(const std::string& held) {
    type(GgufType::kString);
    string(held);
  }
  void value(double held) {
    type(GgufType::kFloat32);
    number(static_cast<float>(held));
  }
  void value(uint64_t held) { integers(std::span<const uint64_t>(&held, 1), false); }
  void value(int64_t held) { integers(std::span<const int64_t>(&held, 1), false); }
  void value(const std::vector<uint64_t>& held) { integers(std::span<const uint64_t>(held), true); }
  void value(const std::vector<int64_t>& held) { integers(std::span<const int64_t>(held), true); }
  void value(const std::vector<bool>& held) {
    array(GgufType::kBool, held.size());
    for (const bool element : held) number<uint8_t>(element);
  }
  void value(const std::vector<double>& held) {
    array(GgufType::kFloat32, held.size());
    for (const double element : held) number(static_cast<float>(element));
  }
  void value(const std::vector<std::string>& held) {
    array(GgufType::kString, held.size());
    for (const std::string& element : held) string(element);
  }

  void pad_to(uint64_t alignment) { bytes_.resize(round_up(bytes_.size(), alignment)); }
  std::string& bytes() { return bytes_; }

 private:
  void array(GgufType element, uint64_t count) {
    type(GgufType::kArray);
    type(element);
    number(count);
  }

  // 32 bits when every value fits, else 64.
  template <typename T>
  void integers(std::span<const T> values, bool as_array) {
    using Narrow = std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>;
    const bool narrow = std::all_of(values.begin(), values.end(), [](T v) {
      return v >= std::numeric_limits<Narrow>::min() && v <= std::numeric_limits<Narrow>::max();
    });
    const GgufType element = std::is_signed_v<T> ? (narrow ? GgufType::kInt32 : GgufType::kInt64)
                                                 : (narrow ? GgufType::kUint32 : GgufType::kUint64);
    if (as_array) {
      array(element, values.size());
    } else {
      type(element);
    }
    for (const T v : values) {
      if (narrow) {
        number(static_cast<Narrow>(v));
      } else {
        number(v);
      }
    }
  }

  std::string bytes_;
};

uint64_t alignment_of(const MetadataEntries& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key != "general.alignment") continue;
    if (const auto* alignment = std::get_if<uint64_t>(&value)) return *alignment;
    if (const auto* alignment = std::get_if<int64_t>(&value))
      return static_cast<uint64_t>(*alignment);
  }
  return kGgufDefaultAlignment;
}

}  // namespace

std::string gguf_header(const MetadataEntries& metadata, std::span<const TensorInfo> tensors) {
  const uint64_t alignment = alignment_of(metadata);
  QUIPU_CHECK(std::has_single_bit(alignment), "alignment {}", alignment);
  HeaderBuilder out;
  out.bytes().append(kGgufMagic);
  out.number<uint32_t>(3);
  out.number<uint64_t>(tensors.size());
  out.number<uint64_t>(metadata.size());
  for (const auto& [key, value] : metadata) {
    out.string(key);
    std::visit([&](const auto& held) { out.value(held); }, value);
  }
  uint64_t offset = 0;
  for (const TensorInfo& tensor : tensors) {
    QUIPU_CHECK(!tensor.shape.empty() && tensor.shape.size() <= 4, "tensor '{}' {}", tensor.name,
                shape_to_string(tensor.shape));
    out.string(tensor.name);
    out.number(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t d = tensor.shape.size(); d > 0; --d)
      out.number(static_cast<uint64_t>(tensor.shape[d - 1]));
    out.number(static_cast<uint32_t>(tensor.dtype));
    out.number(offset);
    offset = round_up(offset + tensor.bytes, alignment);
  }
  out.pad_to(alignment);
  return std::move(out.bytes());
}

Result<GgufWriter> GgufWriter::create(const std::filesystem::path& path,
                                      const MetadataEntries& metadata,
                                      std::vector<TensorInfo> tensors) {
  QUIPU_ASSIGN_OR_RETURN(AtomicFileWriter file, AtomicFileWriter::create(path));
  QUIPU_RETURN_IF_ERROR(file.write(gguf_header(metadata, tensors)));
  return GgufWriter(std::move(file), std::move(tensors), alignment_of(metadata));
}

Status GgufWriter::append(std::span<const std::byte> bytes) {
  QUIPU_CHECK(
      current_ < tensors_.size() && bytes.size() <= tensors_[current_].bytes - current_bytes_,
      "{} bytes do not belong to any tensor", bytes.size());
  QUIPU_RETURN_IF_ERROR(file_.write(bytes));
  current_bytes_ += bytes.size();
  if (current_bytes_ < tensors_[current_].bytes) return Status::ok_status();
  ++current_;
  current_bytes_ = 0;
  const uint64_t at = file_.bytes_written();
  return file_.write(std::string(round_up(at, alignment_) - at, '\0'));
}

Status GgufWriter::append_rows(int threads,
                               const std::function<void(int64_t, int64_t, std::byte*)>& make_rows) {
  constexpr size_t kPanelBytes = 64 * kMiB;
  QUIPU_CHECK(threads >= 1 && current_ < tensors_.size() && current_bytes_ == 0, "{} threads",
              threads);
  const TensorInfo& tensor = tensors_[current_];
  const auto columns = static_cast<size_t>(tensor.shape.back());
  const size_t bytes_per_row = row_bytes(tensor.dtype, columns);
  const int64_t rows = element_count(tensor.shape) / tensor.shape.back();
  const int64_t panel_rows = std::clamp<int64_t>(static_cast<int64_t>(kPanelBytes / bytes_per_row),
                                                 std::min<int64_t>(threads, rows), rows);
  QUIPU_ASSIGN_OR_RETURN(AlignedBuffer panel,
                         AlignedBuffer::allocate(static_cast<size_t>(panel_rows) * bytes_per_row));
  for (int64_t first = 0; first < rows; first += panel_rows) {
    const int64_t count = std::min(panel_rows, rows - first);
    const auto fill = [&](int64_t begin, int64_t end) {
      if (begin < end)
        make_rows(first + begin, end - begin,
                  panel.data() + static_cast<size_t>(begin) * bytes_per_row);
    };
    std::vector<std::jthread> others;
    for (int t = 1; t < threads; ++t)
      others.emplace_back(fill, count * t / threads, count * (t + 1) / threads);
    fill(0, count / threads);
    others.clear();  // joins
    QUIPU_RETURN_IF_ERROR(append(panel.bytes().first(static_cast<size_t>(count) * bytes_per_row)));
  }
  return Status::ok_status();
}

Status GgufWriter::finish() {
  QUIPU_CHECK(current_ == tensors_.size(), "tensor '{}' is not complete", tensors_[current_].name);
  return file_.finish();
}

}  // namespace quipu
