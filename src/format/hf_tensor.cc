#include "format/hf_tensor.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
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

void convert_row(DType from, const std::byte* source, DType to, std::span<float> scratch,
                 std::byte* out) {
  if (from == to) {
    std::memcpy(out, source, row_bytes(to, scratch.size()));
    return;
  }
  dequantize_row(from, source, scratch);
  quantize_row(to, scratch, out);
}

// Source [in, out] to rows of `out`: a few output rows at a time, so that each source row is read
// in short runs and not element by element.
Status convert_transposed(const HfTensor& tensor, std::span<const std::byte> source, DType dtype,
                          std::span<std::byte> out) {
  constexpr size_t kRowsAtOnce = 16;
  const size_t columns = static_cast<size_t>(tensor.source_shape[0]);
  const size_t rows = static_cast<size_t>(tensor.source_shape[1]);
  const size_t element_bytes = dtype_traits(tensor.source_dtype).block_bytes;
  const size_t out_row_bytes = row_bytes(dtype, columns);
  QUIPU_ASSIGN_OR_RETURN(AlignedBuffer buffer,
                         AlignedBuffer::allocate(columns * kRowsAtOnce * sizeof(float)));
  float* panel = buffer.as<float>();
  for (size_t first = 0; first < rows; first += kRowsAtOnce) {
    const size_t count = std::min(kRowsAtOnce, rows - first);
    for (size_t column = 0; column < columns; ++column) {
      float run[kRowsAtOnce];
      dequantize_row(tensor.source_dtype, source.data() + (column * rows + first) * element_bytes,
                     std::span(run, count));
      for (size_t i = 0; i < count; ++i) panel[i * columns + column] = run[i];
    }
    for (size_t i = 0; i < count; ++i) {
      quantize_row(dtype, std::span(panel + i * columns, columns),
                   out.data() + (first + i) * out_row_bytes);
    }
  }
  return Status::ok_status();
}

}  // namespace

Status convert_tensor(const HfTensor& tensor, std::span<const std::byte> source, DType dtype,
                      std::span<std::byte> out) {
  if (tensor.order == RowOrder::kTransposed) return convert_transposed(tensor, source, dtype, out);
  // A permuted vector (a bias) is a column: its "rows" are single elements.
  const bool column = tensor.order != RowOrder::kSame && tensor.source_shape.size() == 1;
  const size_t columns = column ? 1 : static_cast<size_t>(tensor.source_shape.back());
  const size_t rows = static_cast<size_t>(element_count(tensor.source_shape)) / columns;
  const size_t in_bytes = row_bytes(tensor.source_dtype, columns);
  const size_t out_bytes = row_bytes(dtype, columns);
  QUIPU_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::allocate(columns * sizeof(float)));
  for (size_t row = 0; row < rows; ++row) {
    convert_row(tensor.source_dtype, source.data() + source_row(row, rows, tensor) * in_bytes,
                dtype, std::span(buffer.as<float>(), columns), out.data() + row * out_bytes);
  }
  return Status::ok_status();
}

}  // namespace quipu
