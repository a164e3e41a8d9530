// Linear layers: against references in double, and bit equality over batches and threads.
#include <algorithm>
#include <cmath>

#include "backend/cpu/test_util.h"

namespace quipu {
namespace {

using cpu_test::make_backend;
using cpu_test::random_floats;
using cpu_test::same_bits;
using cpu_test::StoredMatrix;

constexpr double kEpsilon = 5.97e-8;  // half a unit in the last place of f32

bool is_quantised(DType dtype) { return dtype_traits(dtype).block_elements > 1; }

// The activation as the kernels see it: int8 per group of 32, bf16, or itself.
std::vector<double> as_kernel_sees(DType dtype, std::span<const float> x) {
  std::vector<double> seen(x.begin(), x.end());
  if (dtype == DType::kBF16) {
    for (double& v : seen) v = bf16_to_f32(f32_to_bf16(static_cast<float>(v)));
  }
  if (!is_quantised(dtype)) return seen;
  for (size_t g = 0; g < x.size(); g += 32) {
    float amax = 0;
    const size_t end = std::min(g + 32, x.size());
    for (size_t i = g; i < end; ++i) amax = std::max(amax, std::fabs(x[i]));
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    for (size_t i = g; i < end; ++i) {
      seen[i] = static_cast<double>(std::nearbyintf(x[i] * inverse)) * (amax / 127.0f);
    }
  }
  return seen;
}

struct Case {
  int64_t out, in;
};

std::vector<Case> cases_for(DType dtype) {
  const auto block = static_cast<int64_t>(dtype_traits(dtype).block_elements);
  if (block == 1) return {{1, 1}, {3, 2}, {16, 64}, {50, 172}, {131, 33}, {512, 64}};
  if (block == 32) return {{1, 32}, {16, 64}, {50, 192}, {131, 96}, {512, 32}};
  return {{1, 256}, {16, 256}, {50, 768}, {131, 512}};
}

std::vector<float> run(Backend& backend, const LinearWeight& weight, std::span<const float> x,
                       size_t tokens, const float* bias = nullptr) {
  const auto out = static_cast<size_t>(weight.out_features());
  std::vector<float> y(tokens * out, NAN);
  const LinearOutput output{&weight, bias, y.data(), out, LinearStore::kSet};
  backend.linear({x.data(), static_cast<size_t>(weight.in_features()), tokens, {&output, 1}});
  backend.synchronise();
  return y;
}

class LinearTest : public testing::TestWithParam<std::tuple<Isa, DType>> {
 protected:
  Isa isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

TEST_P(LinearTest, MatchesDoubleReference) {
  auto backend = make_backend(isa());
  Random random(7);
  for (const auto& [out, in] : cases_for(dtype())) {
    const StoredMatrix matrix(dtype(), out, in, random);
    auto weight = backend->load_linear(matrix.view);
    ASSERT_TRUE(weight.ok());
    const size_t tokens = 19, n = static_cast<size_t>(in);
    const auto x = random_floats(random, tokens * n);
    const auto bias = random_floats(random, static_cast<size_t>(out));
    const auto y = run(*backend, **weight, x, tokens, bias.data());
    for (size_t t = 0; t < tokens; ++t) {
      const auto seen = as_kernel_sees(dtype(), {x.data() + t * n, n});
      for (size_t o = 0; o < static_cast<size_t>(out); ++o) {
        double sum = bias[o], magnitude = std::fabs(bias[o]);
        for (size_t i = 0; i < n; ++i) {
          const double product = matrix.values[o * n + i] * seen[i];
          sum += product;
          magnitude += std::fabs(product);
        }
        // One rounding per term and one per product (two for scales): the classic bound on a sum.
        // Terms cancel inside a group with a minimum, where the bound counts 15 times the value.
        const double steps = static_cast<double>(n) + 4;
        const double cancel = is_quantised(dtype()) ? 16 : 1;
        ASSERT_NEAR(y[t * static_cast<size_t>(out) + o], sum,
                    steps * kEpsilon * magnitude * cancel + 1e-30)
            << dtype_name(dtype()) << " " << out << "x" << in << " token " << t << " row " << o;
      }
    }
  }
}

TEST_P(LinearTest, RowsDoNotDependOnTheirBatch) {
  auto backend = make_backend(isa());
  Random random(8);
  const auto [out, in] = cases_for(dtype())[2];
  const StoredMatrix matrix(dtype(), out + 37, in, random);
  auto weight = backend->load_linear(matrix.view);
  ASSERT_TRUE(weight.ok());
  const size_t n = static_cast<size_t>(in), m = static_cast<size_t>(out + 37), all = 33;
  const auto x = random_floats(random, all * n);
  std::vector<float> alone;
  for (size_t t = 0; t < all; ++t) {
    const auto y = run(*backend, **weight, std::span(x).subspan(t * n, n), 1);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  for (const size_t tokens : {2, 3, 4, 5, 6, 8, 11, 13, 16, 23, 24, 33}) {
    const auto y = run(*backend, **weight, std::span(x).first(tokens * n), tokens);
    EXPECT_TRUE(same_bits(y, std::span(alone).first(tokens * m))) << tokens;
  }
}

TEST_P(LinearTest, BitsDoNotDependOnThreads) {
  Random random(9);
  const auto block = static_cast<int64_t>(dtype_traits(dtype()).block_elements);
  const StoredMatrix matrix(dtype(), 403, block == 1 ? 300 : 512, random);
  const auto n = static_cast<size_t>(matrix.view.columns());
  for (const size_t tokens : {1, 7, 70}) {
    const auto x = random_floats(random, tokens * n);
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 4}) {
      auto backend = make_backend(isa(), threads);
      auto weight = backend->load_linear(matrix.view);
      ASSERT_TRUE(weight.ok());
      const auto y = run(*backend, **weight, x, tokens);
      if (threads == 1) first = y;
      EXPECT_TRUE(same_bits(y, first)) << tokens << " tokens, " << threads << " threads";
    }
  }
}

std::vector<DType> every_dtype() {
  std::vector<DType> all;
  for (const auto& traits : all_dtypes()) all.push_back(traits.dtype);
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, LinearTest,
                         testing::Combine(testing::ValuesIn(detect_cpu_features().usable),
                                          testing::ValuesIn(every_dtype())),
                         [](const auto& test) {
                           return std::string(isa_name(std::get<0>(test.param))) + "_" +
                                  std::string(dtype_name(std::get<1>(test.param)));
                         });

}  // namespace
}  // namespace quipu
