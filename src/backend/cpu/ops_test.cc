// Row operations against references in double, for every instruction set and odd sizes.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/test_util.h"

namespace quipu {
namespace {

using cpu_test::make_backend;
using cpu_test::random_floats;
using cpu_test::same_bits;
using cpu_test::StoredMatrix;

constexpr double kEpsilon = 5.97e-8;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class OpsTest : public testing::TestWithParam<Isa> {
 protected:
  std::unique_ptr<Backend> backend_ = make_backend(GetParam(), 2);
};

TEST_P(OpsTest, Norms) {
  Random random(1);
  for (const size_t dim : {1, 8, 64, 80, 96, 128, 172, 1000}) {
    const size_t tokens = 3, groups = 2, stride = groups * dim + 5;
    const auto x = random_floats(random, tokens * stride), weight = random_floats(random, dim);
    const auto bias = random_floats(random, dim);
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      std::vector<float> y(tokens * stride, -7.0f);
      backend_->norm({kind, x.data(), y.data(), weight.data(),
                      kind == NormKind::kLayer ? bias.data() : nullptr, tokens, groups, dim, stride,
                      stride, 1e-5f});
      for (size_t t = 0; t < tokens; ++t) {
        EXPECT_EQ(y[t * stride + groups * dim], -7.0f) << "wrote past the row";
        for (size_t g = 0; g < groups; ++g) {
          const float* row = &x[t * stride + g * dim];
          double mean = 0, square = 0;
          if (kind == NormKind::kLayer) {
            for (size_t i = 0; i < dim; ++i) mean += row[i] / static_cast<double>(dim);
          }
          for (size_t i = 0; i < dim; ++i) square += (row[i] - mean) * (row[i] - mean);
          const double inverse = 1 / std::sqrt(square / static_cast<double>(dim) + 1e-5);
          for (size_t i = 0; i < dim; ++i) {
            const double b = kind == NormKind::kLayer ? bias[i] : 0.0;
            const double expected = (row[i] - mean) * inverse * weight[i] + b;
            // The relative error of a sum of squares is at most its number of steps (dim / 16 + 5);
            // the mean's error counts against the largest element.
            const double steps = static_cast<double>(dim) / 16 + 16;
            const double size =
                (5 + std::fabs(mean)) * inverse * std::fabs(weight[i]) + std::fabs(b);
            ASSERT_NEAR(y[t * stride + g * dim + i], expected, steps * kEpsilon * size) << dim;
          }
        }
      }
    }
  }
}

TEST_P(OpsTest, RopeInBothPairings) {
  Random random(2);
  for (const auto& [head_dim, rot_dim] : std::vector<std::pair<size_t, size_t>>{
           {8, 8}, {64, 64}, {80, 32}, {96, 96}, {128, 128}, {10, 6}}) {
    const size_t tokens = 3, heads = 2, stride = heads * head_dim + 3;
    for (const RopePairing pairing : {RopePairing::kHalves, RopePairing::kInterleaved}) {
      const auto before = random_floats(random, tokens * stride);
      std::vector<float> cos_sin(tokens * rot_dim);
      for (size_t i = 0; i < cos_sin.size(); i += 2) {
        const double angle = 3 * random.next_double();
        cos_sin[i] = static_cast<float>(std::cos(angle));
        cos_sin[i + 1] = static_cast<float>(std::sin(angle));
      }
      auto x = before;
      backend_->rope({x.data(), cos_sin.data(), tokens, heads, head_dim, rot_dim, stride, pairing});
      auto expected = before;
      for (size_t t = 0; t < tokens; ++t) {
        for (size_t h = 0; h < heads; ++h) {
          for (size_t i = 0; i < rot_dim / 2; ++i) {
            const bool halves = pairing == RopePairing::kHalves;
            const size_t base = t * stride + h * head_dim;
            const size_t a = base + (halves ? i : 2 * i);
            const size_t b = base + (halves ? i + rot_dim / 2 : 2 * i + 1);
            const float c = cos_sin[t * rot_dim + 2 * i], s = cos_sin[t * rot_dim + 2 * i + 1];
            expected[a] = before[a] * c - before[b] * s;
            expected[b] = before[b] * c + before[a] * s;
          }
        }
      }
      EXPECT_TRUE(same_bits(x, expected))
          << head_dim << static_cast<int>(pairing);  // the same roundings: two products, one sum
    }
  }
}

double activation_reference(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu: return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:  // x (1 + tanh(u)) / 2, without its cancellation
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kRelu: return std::max(x, 0.0);
  }
  return 0;
}

TEST_P(OpsTest, Activations) {
  for (const Activation activation :
       {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf, Activation::kRelu}) {
    std::vector<float> gate;
    for (double v = -30; v <= 30; v += 0.0137) gate.push_back(static_cast<float>(v));
    for (const float v : {0.0f, -0.0f, 1e-30f, -1e-30f, 100.0f, -100.0f, 1e5f, -1e5f})
      gate.push_back(v);
    const size_t dim = gate.size();
    ASSERT_NE(dim % 16, 0u);
    const std::vector<float> up(dim, -1.5f);
    for (const bool gated : {false, true}) {
      std::vector<float> out(dim);
      backend_->activation({activation, gate.data(), gated ? up.data() : nullptr, out.data(), 1,
                            dim, dim, dim, dim});
      for (size_t i = 0; i < dim; ++i) {
        const double expected = activation_reference(activation, gate[i]) * (gated ? -1.5 : 1.0);
        // A few roundings of the value; and the exponent's own rounding, which e^x turns into a
        // relative error of |x| (gelu: x^2 / 2) half units.
        const double x = std::fabs(gate[i]);
        const double condition = activation == Activation::kGeluErf    ? x * x / 2
                                 : activation == Activation::kGeluTanh ? x + 0.1 * x * x * x
                                                                       : x;
        const double tolerance = std::fabs(expected) * kEpsilon * (10 + 4 * condition) + 1e-36;
        ASSERT_NEAR(out[i], expected, tolerance)
            << static_cast<int>(activation) << " of " << gate[i];
      }
    }
    const float bad[3] = {NAN, kInfinity, -kInfinity};
    float out[3];
    backend_->activation({activation, bad, nullptr, out, 1, 3, 3, 3, 3});
    EXPECT_TRUE(std::isnan(out[0]));
    EXPECT_EQ(out[1], kInfinity);
  }
}

TEST_P(OpsTest, ActivationInPlaceWithStrides) {
  Random random(4);
  const size_t tokens = 4, dim = 37, stride = 80;
  auto both = random_floats(random, tokens * stride);
  std::vector<float> apart(tokens * dim);
  backend_->activation({Activation::kSilu, both.data(), both.data() + 40, apart.data(), tokens, dim,
                        stride, stride, dim});
  backend_->activation({Activation::kSilu, both.data(), both.data() + 40, both.data(), tokens, dim,
                        stride, stride, stride});
  for (size_t t = 0; t < tokens; ++t) {
    EXPECT_TRUE(same_bits({&both[t * stride], dim}, {&apart[t * dim], dim}));
  }
}

TEST_P(OpsTest, AddAndGather) {
  Random random(5);
  const auto a = random_floats(random, 1003), b = random_floats(random, 1003);
  std::vector<float> sum(1003);
  backend_->add({a.data(), b.data(), sum.data(), 1003});
  for (size_t i = 0; i < 1003; ++i) ASSERT_EQ(sum[i], a[i] + b[i]);
  const int32_t rows[3] = {9, 0, 9};
  std::vector<float> out(3 * 100);
  backend_->gather_rows({a.data(), rows, out.data(), 3, 100});
  EXPECT_TRUE(same_bits({out.data(), 100}, {&a[900], 100}));
  EXPECT_TRUE(same_bits({&out[100], 100}, {&a[0], 100}));
}

TEST_P(OpsTest, SoftCap) {
  Random random(7);
  for (const size_t count : {1, 16, 17, 1003, 40000}) {
    for (const float cap : {0.5f, 30.0f}) {
      std::vector<float> x = random_floats(random, count);
      for (float& value : x) value *= 20;
      x[0] = 1e30f;
      const std::vector<float> before = x;
      backend_->soft_cap({x.data(), count, cap});
      for (size_t i = 0; i < count; ++i) {
        const double expected = cap * std::tanh(static_cast<double>(before[i]) / cap);
        ASSERT_NEAR(x[i], expected, 8 * kEpsilon * cap) << before[i];
      }
      // Where the work was cut changes no bit.
      std::vector<float> apart = before;
      const size_t first = count / 3;
      backend_->soft_cap({apart.data(), first, cap});
      backend_->soft_cap({apart.data() + first, count - first, cap});
      EXPECT_TRUE(same_bits(x, apart));
    }
  }
  float bad[3] = {NAN, kInfinity, -kInfinity};
  backend_->soft_cap({bad, 3, 2.0f});
  EXPECT_TRUE(std::isnan(bad[0]));
  EXPECT_EQ(bad[1], 2.0f);
  EXPECT_EQ(bad[2], -2.0f);
}

TEST_P(OpsTest, ArgMaxTakesTheFirstAndIgnoresNan) {
  Random random(6);
  for (const size_t dim : {1, 5, 16, 17, 100, 50257}) {
    auto x = random_floats(random, dim);
    int32_t best = -1;
    backend_->arg_max({x.data(), &best, 1, dim});
    EXPECT_EQ(best, std::max_element(x.begin(), x.end()) - x.begin());
    x[dim / 2] = x[dim - 1] = 99.0f;
    if (dim > 3) x[dim / 2 - 1] = NAN;
    backend_->arg_max({x.data(), &best, 1, dim});
    EXPECT_EQ(best, static_cast<int32_t>(dim / 2));
    std::fill(x.begin(), x.end(), NAN);
    backend_->arg_max({x.data(), &best, 1, dim});
    EXPECT_EQ(best, 0);
    x[dim - 1] = -kInfinity;
    backend_->arg_max({x.data(), &best, 1, dim});
    EXPECT_EQ(best, static_cast<int32_t>(dim - 1));
  }
}

TEST_P(OpsTest, EmbedEveryType) {
  Random random(7);
  for (const DTypeTraits& traits : all_dtypes()) {
    const int64_t dim = 256, entries = 9;
    const StoredMatrix table(traits.dtype, entries, dim, random);
    auto embedding = backend_->load_embedding(table.view);
    ASSERT_TRUE(embedding.ok());
    const int32_t ids[4] = {8, 0, 3, 8};
    std::vector<float> out(4 * 256, 1.0f);
    backend_->embed({embedding->get(), ids, out.data(), 4, 1.0f, false});
    for (size_t t = 0; t < 4; ++t) {
      EXPECT_TRUE(
          same_bits({&out[t * 256], 256}, {&table.values[static_cast<size_t>(ids[t]) * 256], 256}));
    }
    backend_->embed({embedding->get(), ids, out.data(), 4, 2.0f, true});
    EXPECT_EQ(out[5], 3 * table.values[8 * 256 + 5]);
  }
}

TEST_P(OpsTest, LoadVectorEveryType) {
  Random random(8);
  for (const DTypeTraits& traits : all_dtypes()) {
    const StoredMatrix vector(traits.dtype, 1, 512, random);
    auto buffer = backend_->load_vector({traits.dtype, {512}, vector.bytes});
    ASSERT_TRUE(buffer.ok());
    EXPECT_TRUE(same_bits({(*buffer)->floats(), 512}, vector.values));
  }
}

TEST_P(OpsTest, CopyBlocks) {
  const KvLayerView layer{make_kv_layer_layout(KvFormat::kF32, 1, 8, 8, 16), 0};
  auto pool = backend_->allocate(3 * layer.layout.layer_bytes).value();
  for (size_t i = 0; i < pool->size(); ++i) pool->data()[i] = static_cast<std::byte>(i * 31 % 251);
  const PagedKvView kv{pool->data(), layer.layout.layer_bytes, 16, &layer, 1};
  const BlockCopy copy{BlockId(0), BlockId(2)};
  backend_->copy_blocks(kv, {&copy, 1});
  EXPECT_EQ(std::memcmp(pool->data(), pool->data() + 2 * kv.block_bytes, kv.block_bytes), 0);
  EXPECT_NE(std::memcmp(pool->data(), pool->data() + kv.block_bytes, kv.block_bytes), 0);
}

TEST_P(OpsTest, ResidualAddsToWhatIsThere) {
  Random random(9);
  const StoredMatrix matrix(DType::kF32, 21, 30, random);
  auto weight = backend_->load_linear(matrix.view).value();
  const auto x = random_floats(random, 30);
  std::vector<float> product(21), y(22, 2.0f);
  const LinearOutput set{weight.get(), nullptr, product.data(), 21, LinearStore::kSet};
  backend_->linear({x.data(), 30, 1, {&set, 1}});
  const LinearOutput sum{weight.get(), nullptr, y.data(), 21, LinearStore::kAdd};
  backend_->linear({x.data(), 30, 1, {&sum, 1}});
  for (size_t i = 0; i < 21; ++i) EXPECT_EQ(y[i], 2.0f + product[i]);
  EXPECT_EQ(y[21], 2.0f) << "wrote past the last column";
}

// Several outputs of different types share one input and one call.
TEST_P(OpsTest, MixedOutputsEqualSeparateCalls) {
  Random random(10);
  const size_t tokens = 21;
  const auto x = random_floats(random, tokens * 256);
  std::vector<std::unique_ptr<LinearWeight>> weights;
  std::vector<StoredMatrix> stored;
  stored.reserve(4);
  for (const DType dtype : {DType::kQ4_K, DType::kQ6_K, DType::kBF16, DType::kF32}) {
    stored.emplace_back(dtype, 100, 256, random);
    weights.push_back(backend_->load_linear(stored.back().view).value());
  }
  std::vector<std::vector<float>> together(4, std::vector<float>(tokens * 100)), apart = together;
  std::vector<LinearOutput> outputs;
  for (size_t i = 0; i < 4; ++i) {
    outputs.push_back({weights[i].get(), nullptr, together[i].data(), 100, LinearStore::kSet});
    const LinearOutput one{weights[i].get(), nullptr, apart[i].data(), 100, LinearStore::kSet};
    backend_->linear({x.data(), 256, tokens, {&one, 1}});
  }
  backend_->linear({x.data(), 256, tokens, outputs});
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(same_bits(together[i], apart[i])) << i;
}

// Gates of one type and another, with and without bias, against product, product, activation.
TEST_P(OpsTest, GatedProductEqualsSeparateCalls) {
  Random random(12);
  const size_t out = 150, in = 256;
  const auto bias = random_floats(random, out);
  for (const DType up_type : {DType::kQ4_K, DType::kQ8_0, DType::kBF16}) {
    const StoredMatrix stored_gate(DType::kQ4_K, int64_t(out), int64_t(in), random);
    const StoredMatrix stored_up(up_type, int64_t(out), int64_t(in), random);
    const auto gate = backend_->load_linear(stored_gate.view).value();
    const auto up = backend_->load_linear(stored_up.view).value();
    for (const size_t tokens : {1, 5, 40}) {
      const auto x = random_floats(random, tokens * in);
      for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
        const size_t stride = out + 3;
        std::vector<float> fused(tokens * stride, 7.0f), first = fused, second = fused;
        const LinearOutput apart[] = {
            {gate.get(), b, first.data(), stride, LinearStore::kSet},
            {up.get(), nullptr, second.data(), stride, LinearStore::kSet}};
        backend_->linear({x.data(), in, tokens, apart});
        backend_->activation({Activation::kSilu, first.data(), second.data(), first.data(), tokens,
                              out, stride, stride, stride});
        const LinearOutput together[] = {{gate.get(), b, fused.data(), stride, LinearStore::kSet},
                                         {up.get(), nullptr, nullptr, 0, LinearStore::kSet}};
        backend_->linear({x.data(), in, tokens, together, Activation::kSilu});
        EXPECT_TRUE(same_bits(fused, first)) << tokens << " tokens, " << dtype_name(up_type);
      }
    }
  }
}

TEST_P(OpsTest, ActivationsThatAreNotFiniteStayVisible) {
  Random random(11);
  const StoredMatrix matrix(DType::kQ8_0, 16, 64, random);
  auto weight = backend_->load_linear(matrix.view).value();
  for (const float bad : {NAN, kInfinity}) {
    auto x = random_floats(random, 64);
    x[40] = bad;
    std::vector<float> y(16);
    const LinearOutput output{weight.get(), nullptr, y.data(), 16, LinearStore::kSet};
    backend_->linear({x.data(), 64, 1, {&output, 1}});
    for (const float value : y) EXPECT_FALSE(std::isfinite(value));
  }
}

TEST_P(OpsTest, BadWeightsAreErrors) {
  const std::vector<float> values(64);
  const TensorView vector{DType::kF32, {64}, std::as_bytes(std::span(values))};
  EXPECT_EQ(backend_->load_linear(vector).status().code(), ErrorCode::kUnsupported);
  const TensorView odd{DType::kQ8_0, {1, 33}, std::as_bytes(std::span(values))};
  EXPECT_EQ(backend_->load_linear(odd).status().code(), ErrorCode::kUnsupported);
}

INSTANTIATE_TEST_SUITE_P(All, OpsTest, testing::ValuesIn(detect_cpu_features().usable),
                         [](const auto& test) { return std::string(isa_name(test.param)); });

}  // namespace
}  // namespace quipu
