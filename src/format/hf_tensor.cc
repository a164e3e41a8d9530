#include "format/hf_tensor.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "tensor/quantize.h"

namespace quipu {

namespace {

// The source row that becomes GGUF row `row`. Within a head of d rows, GGUF's 2j + t is the
// source's t * d/2 + j: the two halves that rotate together become neighbours.
size_t source_row(size_t row, size_t rows, const HfTensor& tensor) {
  const bool permuted =
      tensor.order == RowOrder::kPermuteQueryHeads || tensor.order == RowOrder::kPermuteKeyHeads;
  if (!permuted) return row;
  const size_t head_rows = rows / static_cast<size_t>(tensor.heads);
  const size_t head = row / head_rows, within = row % head_rows;
  return head * head_rows + within % 2 * (head_rows / 2) + within / 2;
}

void convert_row(DType from, const std::byte* source, DType to, float added,
                 std::span<float> scratch, std::byte* out) {
  if (from == to && added == 0) {
    std::memcpy(out, source, row_bytes(to, scratch.size()));
    return;
  }
  dequantize_row(from, source, scratch);
  if (added != 0) {
    for (float& value : scratch) value += added;
  }
  quantize_row(to, scratch, out);
}

// What one conversion needs beside its rows.
struct Conversion {
  const HfTensor& tensor;
  const std::byte* source;
  DType dtype;
  size_t rows, columns;  // of the result
  std::byte* out;
};

// Source [in, out] to rows `begin` to `end` of the result: a few rows at a time, so that each
// source row is read in short runs and not element by element.
void convert_transposed(const Conversion& c, size_t begin, size_t end) {
  constexpr size_t kRowsAtOnce = 16;
  const size_t element_bytes = dtype_traits(c.tensor.source_dtype).block_bytes;
  const size_t out_bytes = row_bytes(c.dtype, c.columns);
  std::vector<float> panel(c.columns * kRowsAtOnce);
  for (size_t first = begin; first < end; first += kRowsAtOnce) {
    const size_t count = std::min(kRowsAtOnce, end - first);
    for (size_t column = 0; column < c.columns; ++column) {
      float run[kRowsAtOnce];
      dequantize_row(c.tensor.source_dtype, c.source + (column * c.rows + first) * element_bytes,
                     std::span(run, count));
      for (size_t i = 0; i < count; ++i) panel[i * c.columns + column] = run[i];
    }
    for (size_t i = 0; i < count; ++i) {
      quantize_row(c.dtype, std::span(panel).subspan(i * c.columns, c.columns),
                   c.out + (first + i) * out_bytes);
    }
  }
}

void convert_in_rows(const Conversion& c, size_t begin, size_t end) {
  const size_t in_bytes = row_bytes(c.tensor.source_dtype, c.columns);
  const size_t out_bytes = row_bytes(c.dtype, c.columns);
  std::vector<float> scratch(c.columns);
  for (size_t row = begin; row < end; ++row) {
    convert_row(c.tensor.source_dtype, c.source + source_row(row, c.rows, c.tensor) * in_bytes,
                c.dtype, c.tensor.added, scratch, c.out + row * out_bytes);
  }
}

}  // namespace

void convert_tensor(const HfTensor& tensor, std::span<const std::byte> source, DType dtype,
                    int threads, std::span<std::byte> out) {
  QUIPU_CHECK(threads >= 1, "{} threads", threads);
  const bool transposed = tensor.order == RowOrder::kTransposed;
  // A permuted vector (a bias) is a column: its "rows" are single elements.
  const bool column = tensor.order != RowOrder::kSame && tensor.source_shape.size() == 1;
  const size_t elements = static_cast<size_t>(element_count(tensor.source_shape));
  const size_t columns = column ? 1
                                : static_cast<size_t>(transposed ? tensor.source_shape[0]
                                                                 : tensor.source_shape.back());
  const Conversion conversion = {tensor,  source.data(), dtype, elements / columns,
                                 columns, out.data()};
  const auto convert = [&](size_t begin, size_t end) {
    transposed ? convert_transposed(conversion, begin, end)
               : convert_in_rows(conversion, begin, end);
  };
  constexpr size_t kElementsPerThreadMin = size_t{1} << 18;  // less is done before a thread starts
  const size_t workers =
      std::clamp<size_t>(elements / kElementsPerThreadMin, 1, static_cast<size_t>(threads));
  const auto boundary = [&](size_t worker) { return conversion.rows * worker / workers; };
  std::vector<std::jthread> others;
  for (size_t w = 1; w < workers; ++w) others.emplace_back(convert, boundary(w), boundary(w + 1));
  convert(0, boundary(1));
}

}  // namespace quipu
