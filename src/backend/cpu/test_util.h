// Helpers of the CPU backend's tests: backends per instruction set, random data, references in
// double.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/random.h"
#include "tensor/quantize.h"

namespace quipu::cpu_test {

inline std::unique_ptr<Backend> make_backend(Isa isa, int threads = 1) {
  CpuBackendOptions options;
  options.isa = isa;
  options.threads = threads;
  options.pin_threads = false;
  auto backend = make_cpu_backend(options);
  EXPECT_TRUE(backend.ok());
  return std::move(backend).value();
}

inline std::vector<float> random_floats(Random& random, size_t n, float scale = 1.0f) {
  std::vector<float> values(n);
  for (float& value : values) value = random.next_normal() * scale;
  return values;
}

// A random matrix stored as `dtype`, and what its bytes mean.
struct StoredMatrix {
  StoredMatrix(DType dtype, int64_t rows, int64_t columns, Random& random, float scale = 1.0f) {
    const auto n = static_cast<size_t>(columns);
    bytes.resize(row_bytes(dtype, n) * static_cast<size_t>(rows));
    values.resize(static_cast<size_t>(rows) * n);
    for (int64_t r = 0; r < rows; ++r) {
      std::byte* row = bytes.data() + static_cast<size_t>(r) * row_bytes(dtype, n);
      const auto source = random_floats(random, n, scale);
      quantize_row(dtype, source, row);
      dequantize_row(dtype, row, {values.data() + static_cast<size_t>(r) * n, n});
    }
    view = {dtype, {rows, columns}, bytes};
  }
  std::vector<std::byte> bytes;
  std::vector<float> values;
  TensorView view;
};

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace quipu::cpu_test
