// Kernels over integer codes: against plain loops, on odd sizes, and bit for bit between the
// instruction sets, since their sums are exact.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/hadamard.h"
#include "backend/cpu/kernels_codes.h"
#include "backend/cpu/test_util.h"

namespace quipu::cpu {
namespace {

using cpu_test::random_floats;
using cpu_test::same_bits;

const CodeKernels& table_of(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return scalar_code_kernels();
    case Isa::kAvx2: return avx2_code_kernels();
    case Isa::kAvx512: return avx512_code_kernels();
  }
  return scalar_code_kernels();
}

class CodesTest : public testing::TestWithParam<Isa> {
 protected:
  const CodeKernels& kernels() const { return table_of(GetParam()); }
};

float bf16_value(uint16_t bits) { return bf16_to_f32(bits); }

TEST_P(CodesTest, EncodedRowsAreWithinHalfAStep) {
  Random random(5);
  for (const size_t n : {1, 7, 8, 16, 33, 80, 128, 200}) {
    for (const float size : {1.0f, 1e-30f, 1e30f, 300.0f}) {
      const auto x = random_floats(random, n, size);
      std::vector<uint8_t> codes(n + 16, 7);
      EncodeArgs args{x.data(), n, codes.data(), 0};
      kernels().encode(args);
      const float scale = bf16_value(args.scale);
      for (size_t i = 0; i < n; ++i) {
        ASSERT_GE(codes[i], 1);
        ASSERT_NEAR((codes[i] - 128) * scale, x[i], scale * 0.50001f) << n << " at " << i;
      }
      for (size_t i = n; i < (n + 15) / 16 * 16; ++i) ASSERT_EQ(codes[i], 128);
      // The largest value uses the whole range, but for the scale's own rounding.
      const auto [low, high] = std::minmax_element(codes.begin(), codes.begin() + ptrdiff_t(n));
      EXPECT_GE(std::max(128 - *low, *high - 128), 126);
    }
  }
}

TEST_P(CodesTest, ZerosAndRowsThatAreNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto scale_of = [&](std::vector<float> x) {
    std::vector<uint8_t> codes(16);
    EncodeArgs args{x.data(), x.size(), codes.data(), 0};
    kernels().encode(args);
    return bf16_value(args.scale);
  };
  EXPECT_EQ(scale_of({0, 0, -0.0f}), 0);
  EXPECT_EQ(scale_of({1e-40f, 1e-37f}), 0);
  EXPECT_TRUE(std::isnan(scale_of({1, NAN, 2})));
  EXPECT_TRUE(std::isnan(scale_of({1, -infinity, 2})));
  EXPECT_TRUE(std::isfinite(scale_of({std::numeric_limits<float>::max()})));

  std::vector<uint64_t> x(4);
  std::vector<uint32_t> bytes(4, 7);
  std::vector<float> q{0, 0, 0};
  float sum = 7;
  QueryCodesArgs query{q.data(), 3, x.data(), 1, 7, 7};
  const auto expect_no_bytes = [&] {
    QueryBytesArgs args{q.data(), 3, query.scale, bytes.data(), &sum, 1};
    kernels().query_bytes(args);
    EXPECT_EQ(sum, 0);
    EXPECT_EQ(bytes[0], 0u);
  };
  kernels().query_codes(query);
  EXPECT_EQ(query.scale, 0);
  EXPECT_EQ(query.start, 0);
  expect_no_bytes();
  q[1] = infinity;
  kernels().query_codes(query);
  EXPECT_TRUE(std::isnan(query.scale));
  expect_no_bytes();
}

// Keys of `tiles` tiles as the cache stores them, random.
struct Keys {
  Keys(Random& random, size_t tiles, size_t dim) : quads((dim + 3) / 4) {
    for (size_t i = 0; i < tiles; ++i) {
      std::vector<uint8_t> tile(quads * 64);
      for (uint8_t& code : tile) code = static_cast<uint8_t>(random.next_below(256));
      codes.push_back(std::move(tile));
      std::vector<uint16_t> scale(16);
      for (uint16_t& bits : scale) bits = f32_to_bf16(0.01f + static_cast<float>(random.next_double()));
      scales.push_back(std::move(scale));
    }
    for (size_t i = 0; i < tiles; ++i) {
      tile_pointers.push_back(codes[i].data());
      scale_pointers.push_back(scales[i].data());
    }
  }
  size_t quads;
  std::vector<std::vector<uint8_t>> codes;
  std::vector<std::vector<uint16_t>> scales;
  std::vector<const uint8_t*> tile_pointers;
  std::vector<const uint16_t*> scale_pointers;
};

struct Queries {
  Queries(const CodeKernels& kernels, const std::vector<float>& q, size_t rows, size_t dim)
      : x((dim + 3) / 4 * rows, ~uint64_t{0}),
        bytes(x.size(), ~uint32_t{0}),
        scales(rows),
        sums((dim + 31) / 32 * rows),
        starts(rows) {
    for (size_t r = 0; r < rows; ++r) {
      QueryCodesArgs args{q.data() + r * dim, dim, x.data() + r, rows, 0, 0};
      kernels.query_codes(args);
      scales[r] = args.scale;
      starts[r] = args.start;
      QueryBytesArgs args8{q.data() + r * dim, dim, args.scale, bytes.data() + r,
                           sums.data() + r,    rows};
      kernels.query_bytes(args8);
    }
  }
  std::vector<uint64_t> x;
  std::vector<uint32_t> bytes;
  std::vector<float> scales, sums;
  std::vector<int32_t> starts;
};

// Two lines, and then no more.
ReadAhead ahead_in(const uint8_t* p) { return {p, p + 128}; }

std::vector<float> scores_of(const CodeKernels& kernels, const Keys& keys, const Queries& queries,
                             size_t first, size_t rows, bool ahead) {
  const size_t tiles = keys.codes.size();
  std::vector<float> out(rows * tiles * 16);
  KeyCodesArgs args{keys.tile_pointers.data(),   keys.scale_pointers.data(),
                    static_cast<int>(tiles),     keys.quads,
                    queries.x.data() + first,    queries.starts.data() + first,
                    queries.scales.size(),       static_cast<int>(rows),
                    out.data(),                  tiles * 16};
  ReadAhead reads = ahead_in(keys.codes.front().data());
  if (ahead) args.ahead = &reads;
  kernels.key_codes(args);
  return out;
}

TEST_P(CodesTest, ScoresMatchPlainSums) {
  Random random(6);
  for (const size_t dim : {1, 8, 30, 64, 80, 128}) {
    for (const size_t tiles : {1, 2, 4}) {
      const size_t rows = 19;
      const Keys keys(random, tiles, dim);
      const auto q = random_floats(random, rows * dim);
      const Queries queries(kernels(), q, rows, dim);
      const auto got = scores_of(kernels(), keys, queries, 0, rows, false);
      for (size_t r = 0; r < rows; ++r) {
        for (size_t t = 0; t < tiles * 16; ++t) {
          double sum = 0, size = 0;
          for (size_t d = 0; d < dim; ++d) {
            const int code = keys.codes[t / 16][d / 4 * 64 + t % 16 * 4 + d % 4] - 128;
            sum += code * static_cast<double>(q[r * dim + d]);
            size += std::abs(code);
          }
          const double scale = bf16_value(keys.scales[t / 16][t % 16]);
          // Half a step of the query's codes in each term.
          const double tolerance =
              scale * (size * queries.scales[r] * 0.501 + std::abs(sum) * 1e-6 + 1e-6);
          ASSERT_NEAR(got[r * tiles * 16 + t] * queries.scales[r], sum * scale, tolerance)
              << "dim " << dim << " row " << r << " token " << t;
        }
      }
    }
  }
}

TEST_P(CodesTest, ScoresHaveTheBitsOfTheScalarSetForAnyRows) {
  Random random(7);
  const size_t dim = 90, rows = 13;
  for (const size_t tiles : {1, 2, 3, 4}) {
    const Keys keys(random, tiles, dim);
    const auto q = random_floats(random, rows * dim);
    const Queries expected_queries(scalar_code_kernels(), q, rows, dim);
    const auto expected = scores_of(scalar_code_kernels(), keys, expected_queries, 0, rows, false);
    const Queries queries(kernels(), q, rows, dim);
    EXPECT_EQ(queries.sums, expected_queries.sums);
    EXPECT_EQ(queries.bytes, expected_queries.bytes);
    EXPECT_EQ(queries.starts, expected_queries.starts);
    EXPECT_TRUE(same_bits(queries.scales, expected_queries.scales));
    for (size_t first = 0; first < rows; first += 4) {
      for (size_t count = 1; first + count <= rows; ++count) {
        const auto got = scores_of(kernels(), keys, queries, first, count, tiles <= 2);
        const std::vector<float> want(
            expected.begin() + ptrdiff_t(first * tiles * 16),
            expected.begin() + ptrdiff_t((first + count) * tiles * 16));
        ASSERT_TRUE(same_bits(got, want)) << tiles << " tiles, rows " << first << " + " << count;
      }
    }
  }
}

// Values of 48 tokens and weights of some rows, each of which sees a part of them.
TEST_P(CodesTest, WeightedValuesMatchPlainSumsAndTheScalarSet) {
  Random random(8);
  constexpr int kTokens = 48;
  for (const size_t dim : {8, 16, 20, 64, 80, 100, 128}) {
    for (const size_t rows : {1, 2, 3, 7, 8, 21}) {
      std::vector<uint8_t> codes(kTokens * dim + 64);  // 60 more may be read
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random.next_below(256));
      std::vector<uint16_t> scales(kTokens);
      for (uint16_t& bits : scales) bits = f32_to_bf16(0.01f + static_cast<float>(random.next_double()));
      scales[0] = 0x7FC0;  // NaN in a slot that no row sees
      const uint16_t* scale_pointers[3] = {scales.data(), scales.data() + 16, scales.data() + 32};
      std::vector<float> weights(rows * kTokens);
      for (float& weight : weights) weight = static_cast<float>(random.next_double());
      const size_t stride = (dim + 15) / 16 * 16;
      const auto run = [&](const CodeKernels& kernels, bool ahead) {
        ReadAhead reads = ahead_in(codes.data());
        std::vector<uint64_t> x(kTokens / 4 * rows);
        std::vector<float> row_scales(rows), scaled(kTokens);
        std::vector<int32_t> row_sums(rows), sums(rows * stride);
        for (size_t r = 0; r < rows; ++r) {
          const int begin = 1 + static_cast<int>(r % 5), end = kTokens - static_cast<int>(r * 2);
          WeightCodesArgs args{weights.data() + r * kTokens,
                               scaled.data(),
                               scale_pointers,
                               begin,
                               end,
                               0,
                               kTokens,
                               x.data() + r,
                               rows,
                               0,
                               0};
          kernels.weight_codes(args);
          row_scales[r] = args.scale;
          row_sums[r] = args.sum;
        }
        // In two calls, as from two blocks.
        for (const int from : {0, 16}) {
          const int tokens = from == 0 ? 16 : 32;
          kernels.value_codes({codes.data() + from * static_cast<int>(dim), dim * 4, tokens / 4,
                               static_cast<int>(dim), x.data() + from / 4 * static_cast<int>(rows),
                               rows, static_cast<int>(rows), sums.data(), stride,
                               ahead ? &reads : nullptr});
        }
        std::vector<float> out(rows * stride), valid;
        for (size_t r = 0; r < rows; ++r) {
          kernels.scale_sums({sums.data() + r * stride, dim, 128 * row_sums[r], row_scales[r],
                              out.data() + r * stride});
          valid.insert(valid.end(), out.begin() + ptrdiff_t(r * stride),
                       out.begin() + ptrdiff_t(r * stride + dim));
        }
        return valid;
      };
      const auto got = run(kernels(), false);
      for (size_t r = 0; r < rows; ++r) {
        for (size_t d = 0; d < dim; ++d) {
          double sum = 0, largest = 0, size = 0;
          for (int t = 1 + static_cast<int>(r % 5); t < kTokens - static_cast<int>(r * 2); ++t) {
            const size_t at = static_cast<size_t>(t / 4) * dim * 4 + d * 4 + t % 4;
            const double w = static_cast<double>(weights[r * kTokens + static_cast<size_t>(t)]) *
                             bf16_value(scales[static_cast<size_t>(t)]);
            largest = std::max(largest, w);
            size += std::abs(codes[at] - 128);
            sum += w * (codes[at] - 128);
          }
          ASSERT_NEAR(got[r * dim + d], sum, size * largest / 16256 * 0.501 + size * 1e-6)
              << "dim " << dim << " row " << r << " element " << d;
        }
      }
      EXPECT_TRUE(same_bits(got, run(scalar_code_kernels(), false))) << dim << " " << rows;
      if (rows <= 8) {
        EXPECT_TRUE(same_bits(got, run(kernels(), true))) << dim << " " << rows;
      }
    }
  }
}

// int4 keys against plain sums, and against themselves for any rows. Instruction sets may differ in
// the last bits here, where a group's products meet its scale.
TEST_P(CodesTest, NibbleScoresMatchPlainSums) {
  Random random(9);
  for (const size_t dim : {1, 8, 30, 64, 80, 128}) {
    for (const size_t tiles : {1, 2, 3}) {
      const size_t rows = 13, quads = (dim + 3) / 4;
      std::vector<std::vector<uint8_t>> bytes(tiles);
      std::vector<const uint8_t*> pointers;
      std::vector<std::vector<double>> keys(tiles * 16, std::vector<double>(dim));
      for (size_t i = 0; i < tiles; ++i) {
        for (size_t begin = 0; begin < dim; begin += 32) {
          const size_t dims = std::min<size_t>(32, dim - begin), at = bytes[i].size();
          bytes[i].resize(at + 64 + ((dims + 3) / 4 + 1) / 2 * 64);
          auto* scales = reinterpret_cast<uint16_t*>(bytes[i].data() + at);
          for (size_t t = 0; t < 16; ++t) {
            scales[t] = f32_to_bf16(0.01f + static_cast<float>(random.next_double()));
            scales[16 + t] = f32_to_bf16(random.next_normal());
          }
          for (size_t j = at + 64; j < bytes[i].size(); ++j) {
            bytes[i][j] = static_cast<uint8_t>(random.next_below(256));
          }
          for (size_t t = 0; t < 16; ++t) {
            for (size_t d = 0; d < dims; ++d) {
              const uint8_t byte = bytes[i][at + 64 + d / 8 * 64 + t * 4 + d % 4];
              keys[i * 16 + t][begin + d] = bf16_value(scales[16 + t]) +
                                            (d / 4 % 2 == 0 ? byte & 15 : byte >> 4) *
                                                static_cast<double>(bf16_value(scales[t]));
            }
          }
        }
      }
      for (const auto& tile : bytes) pointers.push_back(tile.data());
      const auto q = random_floats(random, rows * dim);
      const auto base = random_floats(random, rows * tiles);
      const Queries queries(kernels(), q, rows, dim);
      const auto run = [&](size_t first, size_t count, bool ahead) {
        ReadAhead reads = ahead_in(pointers[0]);
        std::vector<float> out(count * tiles * 16);
        kernels().key_nibbles({pointers.data(), static_cast<int>(tiles), quads,
                               queries.bytes.data() + first, queries.sums.data() + first, rows,
                               static_cast<int>(count), base.data() + first * tiles, tiles,
                               out.data(), tiles * 16, ahead ? &reads : nullptr});
        return out;
      };
      const auto got = run(0, rows, false);
      for (size_t r = 0; r < rows; ++r) {
        for (size_t t = 0; t < tiles * 16; ++t) {
          double sum = 0, size = 0;
          for (size_t d = 0; d < dim; ++d) {
            sum += keys[t][d] * q[r * dim + d];
            size += std::abs(keys[t][d]);
          }
          const double scale = queries.scales[r];
          sum += base[r * tiles + t / 16] * scale;
          // Half a step of the query's bytes in each term.
          ASSERT_NEAR(got[r * tiles * 16 + t] * scale, sum,
                      size * (128 * scale * 0.501 + 2e-6) + 1e-5)
              << "dim " << dim << " row " << r << " token " << t;
        }
      }
      for (size_t count = 1; count <= 8; ++count) {
        const auto part = run(3, count, tiles <= 2);
        const std::vector<float> want(got.begin() + ptrdiff_t(3 * tiles * 16),
                                      got.begin() + ptrdiff_t((3 + count) * tiles * 16));
        ASSERT_TRUE(same_bits(part, want)) << dim << ", " << tiles << " tiles, " << count << " rows";
      }
    }
  }
}

// Values of five tiles (an odd number, from an odd one on) and rows that see parts of them.
TEST_P(CodesTest, NibbleValuesMatchPlainSumsForAnyRows) {
  Random random(10);
  constexpr int kFirst = 1, kLast = 6, kTokens = kLast * 16, kGroups = 3;
  for (const size_t dim : {8, 16, 20, 64}) {
    const size_t stride = (dim + 15) / 16 * 16, run_bytes = dim * 4;
    std::vector<uint8_t> bytes(kTokens / 2 * dim + 64);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next_below(256));
    std::vector<uint16_t> scale(kTokens), minimum(kTokens);
    for (int t = 0; t < kTokens; ++t) {
      scale[size_t(t)] = f32_to_bf16(0.01f + static_cast<float>(random.next_double()));
      minimum[size_t(t)] = f32_to_bf16(random.next_normal());
    }
    scale[16] = minimum[16] = 0x7FC0;  // NaN in a slot that no row sees
    std::vector<const uint8_t*> tiles;
    std::vector<const uint16_t*> scales, minima;
    for (size_t t = 0; t < kTokens; t += 16) {
      tiles.push_back(bytes.data() + t / 8 * run_bytes);
      scales.push_back(scale.data() + t);
      minima.push_back(minimum.data() + t);
    }
    for (const size_t rows : {1, 2, 5, 8, 17}) {
      std::vector<float> weights(rows * kTokens);
      for (float& weight : weights) weight = static_cast<float>(random.next_double());
      const auto run = [&](const CodeKernels& kernels, size_t from, size_t count, bool ahead) {
        ReadAhead reads = ahead_in(bytes.data());
        std::vector<uint32_t> x(kTokens / 4 * count, ~uint32_t{0});
        std::vector<float> weight_scales(kGroups * count, NAN), out(count * stride);
        for (size_t r = 0; r < count; ++r) {
          const int end = kTokens - static_cast<int>(from + r) * 2;
          WeightBytesArgs args{weights.data() + (from + r) * kTokens,
                               scales.data(),
                               minima.data(),
                               17,
                               end,
                               kFirst * 16,
                               kLast * 16,
                               x.data() + r,
                               weight_scales.data() + r,
                               count,
                               0};
          kernels.weight_bytes(args);
          std::fill_n(out.begin() + ptrdiff_t(r * stride), stride, args.minimum_sum);
        }
        kernels.value_nibbles({tiles.data(), run_bytes, kFirst, kLast, static_cast<int>(dim),
                               x.data(), weight_scales.data(), count, static_cast<int>(count),
                               out.data(), stride, ahead ? &reads : nullptr});
        return out;
      };
      const auto got = run(kernels(), 0, rows, false);
      for (size_t r = 0; r < rows; ++r) {
        const size_t end = kTokens - r * 2;
        for (size_t d = 0; d < dim; ++d) {
          double sum = 0, tolerance = 1e-4;
          for (size_t group = 0; group < kGroups; ++group) {
            double largest = 0, size = 0;
            for (size_t t = std::max<size_t>(group * 32, 17); t < std::min(end, group * 32 + 32);
                 ++t) {
              const uint8_t byte = bytes[t / 8 * run_bytes + d * 4 + t % 4];
              const int code = t / 4 % 2 == 0 ? byte & 15 : byte >> 4;
              const double weight = weights[r * kTokens + t];
              const double scaled = weight * bf16_value(scale[t]);
              sum += scaled * code + weight * bf16_value(minimum[t]);
              largest = std::max(largest, scaled);
              size += code;
            }
            tolerance += size * largest / 127 * 0.501;  // half a step of each weight
          }
          ASSERT_NEAR(got[r * stride + d], sum, tolerance)
              << "dim " << dim << " row " << r << " " << d;
        }
      }
      // Any rows together; few of them asking ahead.
      for (size_t from = 0; from < rows; from += 3) {
        const size_t count = std::min<size_t>(rows - from, 1 + from % 4);
        for (const bool ahead : {false, true}) {
          const auto part = run(kernels(), from, count, ahead);
          const std::vector<float> want(got.begin() + ptrdiff_t(from * stride),
                                        got.begin() + ptrdiff_t((from + count) * stride));
          for (size_t i = 0; i < part.size(); ++i) {
            if (i % stride >= dim) continue;
            ASSERT_EQ(part[i], want[i]) << dim << " " << rows << " " << from;
          }
        }
      }
    }
  }
}

TEST_P(CodesTest, InterleavesRows) {
  Random random(12);
  for (const size_t quads : {1, 2, 15, 16, 17, 32}) {
    std::vector<std::vector<uint8_t>> rows(16, std::vector<uint8_t>(quads * 4));
    std::vector<const uint8_t*> pointers;
    for (auto& row : rows) {
      for (uint8_t& byte : row) byte = static_cast<uint8_t>(random.next_below(256));
      pointers.push_back(row.data());
    }
    pointers[3] = nullptr;
    std::vector<uint8_t> out(quads * 64, 7);
    kernels().interleave(pointers.data(), quads, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t lane = i % 64 / 4;
      ASSERT_EQ(out[i], lane == 3 ? 0 : rows[lane][i / 64 * 4 + i % 4]) << quads << " at " << i;
    }
  }
}

TEST(Hadamard, KeepsProductsAndUndoesItself) {
  Random random(11);
  for (const size_t n : {1, 8, 33, 80, 96, 128, 256}) {
    const auto a = random_floats(random, n), b = random_floats(random, n);
    auto x = a, y = b;
    rotate_hadamard(x.data(), n);
    rotate_hadamard(y.data(), n);
    double before = 0, after = 0;
    for (size_t i = 0; i < n; ++i) {
      before += static_cast<double>(a[i]) * b[i];
      after += static_cast<double>(x[i]) * y[i];
    }
    EXPECT_NEAR(after, before, 1e-4);
    rotate_hadamard(x.data(), n);
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(x[i], a[i], 1e-5);
  }
  std::vector<float> outlier(96);
  outlier[40] = 32.0f;
  rotate_hadamard(outlier.data(), 96);  // runs of 32
  for (size_t i = 32; i < 64; ++i) EXPECT_NEAR(std::abs(outlier[i]), std::sqrt(32.0f), 1e-4);
  EXPECT_EQ(outlier[0], 0);
}

TEST_P(CodesTest, LargestSumsFit) {
  constexpr size_t kDim = 2000;  // longer than any head; 512 tokens are a whole chunk
  std::vector<float> q(kDim, 1.0f);
  std::vector<uint8_t> tile(kDim * 16, 255);
  std::vector<uint16_t> scale(16, f32_to_bf16(1.0f));
  const Queries queries(kernels(), q, 1, kDim);
  const uint8_t* tiles[] = {tile.data()};
  const uint16_t* scales[] = {scale.data()};
  std::vector<float> out(16);
  kernels().key_codes({tiles, scales, 1, kDim / 4, queries.x.data(), queries.starts.data(), 1, 1,
                       out.data(), 16});
  EXPECT_NEAR(out[3] * queries.scales[0], 127.0 * kDim, 127.0 * kDim * 1e-4);

  std::vector<float> weights(512, 1.0f);
  std::vector<uint64_t> x(128);
  std::vector<const uint16_t*> value_scales(32, scale.data());
  std::vector<float> scaled(512);
  WeightCodesArgs args{
      weights.data(), scaled.data(), value_scales.data(), 0, 512, 0, 512, x.data(), 1, 0, 0};
  kernels().weight_codes(args);
  std::vector<uint8_t> values(512 * 16, 255);
  std::vector<int32_t> sums(16);
  kernels().value_codes({values.data(), 64, 128, 16, x.data(), 1, 1, sums.data(), 16});
  kernels().scale_sums({sums.data(), 16, 128 * args.sum, args.scale, out.data()});
  EXPECT_NEAR(out[7], 127.0 * 512, 0.1);
}

// The largest products of nibbles, all of one sign: AVX2 adds them in 16 bits.
TEST_P(CodesTest, LargestNibbleSumsFit) {
  constexpr size_t kDim = 128;
  for (const float sign : {1.0f, -1.0f}) {
    const std::vector<float> q(kDim, sign);
    std::vector<uint8_t> tile(4 * (64 + 256), 0xFF);
    for (size_t group = 0; group < 4; ++group) {
      auto* halves = reinterpret_cast<uint16_t*>(tile.data() + group * 320);
      std::fill_n(halves, 16, f32_to_bf16(1.0f));
      std::fill_n(halves + 16, 16, f32_to_bf16(0.0f));
    }
    const Queries queries(kernels(), q, 1, kDim);
    const uint8_t* tiles[] = {tile.data()};
    const float base = 0;
    std::vector<float> out(16);
    kernels().key_nibbles({tiles, 1, kDim / 4, queries.bytes.data(), queries.sums.data(), 1, 1,
                           &base, 1, out.data(), 16});
    EXPECT_NEAR(out[5] * queries.scales[0], sign * 15 * kDim, 15 * kDim * 1e-5);
  }
  const std::vector<float> weights(512, 1.0f);
  const std::vector<uint16_t> one(16, f32_to_bf16(1.0f)), none(16, 0);
  const std::vector<const uint16_t*> scales(32, one.data()), minima(32, none.data());
  const std::vector<uint8_t> values(256 * 16, 0xFF);
  std::vector<const uint8_t*> tiles;
  for (size_t tile = 0; tile < 32; ++tile) tiles.push_back(values.data() + tile * 128);
  std::vector<uint32_t> x(128);
  std::vector<float> scale(16), sums(16);
  WeightBytesArgs args{
      weights.data(), scales.data(), minima.data(), 0, 512, 0, 512, x.data(), scale.data(), 1, 0};
  kernels().weight_bytes(args);
  kernels().value_nibbles(
      {tiles.data(), 64, 0, 32, 16, x.data(), scale.data(), 1, 1, sums.data(), 16});
  EXPECT_NEAR(sums[7], 15.0 * 512, 0.1);
}

INSTANTIATE_TEST_SUITE_P(All, CodesTest, testing::ValuesIn(detect_cpu_features().usable),
                         [](const auto& test) { return std::string(isa_name(test.param)); });

}  // namespace
}  // namespace quipu::cpu
