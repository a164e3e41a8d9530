// Any bytes: parse_gguf either refuses them or gives tensors that keep ModelFile's invariants.
#include <algorithm>
#include <cstdint>
#include <span>

#include "base/utf8.h"
#include "format/gguf.h"

namespace quipu {
namespace {

void check(const GgufContents& contents, size_t file_bytes) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const GgufTensor& tensor : contents.tensors) {
    QUIPU_CHECK(tensor.shape.size() >= 1 && tensor.shape.size() <= 4, "{}", tensor.name);
    QUIPU_CHECK(is_valid_utf8(tensor.name), "name");
    const auto columns = static_cast<size_t>(tensor.shape.back());
    const auto rows = static_cast<size_t>(element_count(tensor.shape)) / columns;
    QUIPU_CHECK(tensor.bytes == rows * row_bytes(tensor.dtype, columns), "{}", tensor.name);
    QUIPU_CHECK(tensor.bytes <= file_bytes && tensor.offset <= file_bytes - tensor.bytes, "{}",
                tensor.name);
    ranges.emplace_back(tensor.offset, tensor.offset + tensor.bytes);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i)
    QUIPU_CHECK(ranges[i - 1].second <= ranges[i].first, "overlap");
  for (const auto& [key, value] : contents.metadata.entries()) {
    QUIPU_CHECK(contents.metadata.find(key) != nullptr && is_valid_utf8(key), "key");
  }
}

}  // namespace
}  // namespace quipu

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto contents = quipu::parse_gguf(std::as_bytes(std::span(data, size)), "fuzz.gguf");
  if (contents.ok()) {
    quipu::check(*contents, size);
  } else {
    QUIPU_CHECK(quipu::is_valid_utf8(contents.status().message()), "error message");
  }
  return 0;
}
