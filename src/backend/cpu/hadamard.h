// Rotation by Hadamard matrices, in place: on runs of the largest power of two that divides the
// length, each by the orthonormal matrix H = [[H, H], [H, -H]] / sqrt(2). It spreads a large element
// over its run; and as H H = 1, the products of two rotated rows are those of the rows.
// SOURCE: Sylvester's construction; butterflies as in the fast Walsh-Hadamard transform.
#pragma once

#include <cmath>
#include <cstddef>

namespace quipu::cpu {

// SHAPE: x: [n]
inline void rotate_hadamard(float* x, size_t n) {
  const size_t run = n & (~n + 1);  // the lowest bit
  size_t half = 1;
  if (run >= 4) {  // two steps at once: compilers make vectors of longer halves only
    for (size_t i = 0; i < n; i += 4) {
      const float a = x[i] + x[i + 1], b = x[i] - x[i + 1];
      const float c = x[i + 2] + x[i + 3], d = x[i + 2] - x[i + 3];
      x[i] = a + c;
      x[i + 1] = b + d;
      x[i + 2] = a - c;
      x[i + 3] = b - d;
    }
    half = 4;
  }
  for (; half < run; half *= 2) {
    for (size_t i = 0; i < n; i += 2 * half) {
      for (size_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
    }
  }
  const float factor = 1.0f / std::sqrt(static_cast<float>(run));
  for (size_t i = 0; i < n; ++i) x[i] *= factor;
}

}  // namespace quipu::cpu
