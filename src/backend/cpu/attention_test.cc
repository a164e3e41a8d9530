// Attention: against a reference in double, and bit equality over prefill chunks, batches, threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/cpu/test_util.h"

namespace quipu {
namespace {

using cpu_test::make_backend;
using cpu_test::random_floats;
using cpu_test::same_bits;

struct Shape {
  KvFormat format;
  int heads, kv_heads, key_dim, value_dim, block_tokens;
  int32_t window = 0;
  float softcap = 0;
  int32_t sinks = 0;
};

std::string shape_name(const Shape& s) {
  return fmt::format("{}_h{}_{}_k{}_v{}_b{}_w{}_s{}_c{}", kv_format_name(s.format), s.heads,
                     s.kv_heads, s.key_dim, s.value_dim, s.block_tokens, s.window, s.sinks,
                     s.softcap != 0 ? 1 : 0);
}

// Queries, keys and values of one sequence, token after token.
struct Tokens {
  Tokens(const Shape& s, size_t n, uint64_t seed) : count(n) {
    Random random(seed);
    q = random_floats(random, n * static_cast<size_t>(s.heads * s.key_dim));
    q_sinks = random_floats(random, n * static_cast<size_t>(s.heads * s.key_dim));
    k = random_floats(random, n * static_cast<size_t>(s.kv_heads * s.key_dim));
    v = random_floats(random, n * static_cast<size_t>(s.kv_heads * s.value_dim));
  }
  size_t count;
  std::vector<float> q, q_sinks, k, v;  // q_sinks: what looks at the sinks
};

// A pool whose unwritten slots are NaN, and the sequences in it, on one backend.
class Cache {
 public:
  static constexpr int kBlocksPerSequence = 48;

  Cache(Backend& backend, const Shape& shape, int sequences) : backend_(backend), shape_(shape) {
    layers_[0] = {make_kv_layer_layout(shape.format, shape.kv_heads, shape.key_dim, shape.value_dim,
                                       shape.block_tokens),
                  0};
    layers_[1] = {layers_[0].layout, layers_[0].layout.layer_bytes};
    const size_t block_bytes = 2 * layers_[0].layout.layer_bytes;
    const auto blocks = static_cast<size_t>(sequences * kBlocksPerSequence);
    pool_ = std::move(backend.allocate(blocks * block_bytes)).value();
    std::memset(pool_->data(), 0xFF, pool_->size());  // NaN as f32 and as bf16
    kv_ = {pool_->data(), block_bytes, shape.block_tokens, layers_, 2};
    tables_.resize(blocks);
    // Scattered blocks: neighbours in a table are not neighbours in memory.
    for (size_t i = 0; i < blocks; ++i) tables_[i] = static_cast<int32_t>(i * 7 % blocks);
    if (std::gcd(blocks, size_t{7}) != 1) std::iota(tables_.rbegin(), tables_.rend(), 0);
    done_.resize(static_cast<size_t>(sequences));
  }

  struct Piece {
    int sequence;
    const Tokens* tokens;
    size_t count;  // the next so many tokens of the sequence
  };

  // One step: writes the pieces' keys and values and returns their attention, piece after piece.
  std::vector<float> step(const std::vector<Piece>& pieces) {
    std::vector<float> q, q_sinks, k, v;
    std::vector<int32_t> query_start{0}, positions, tables, gaps;
    std::vector<int64_t> slots;
    for (const Piece& piece : pieces) {
      size_t& done = done_[static_cast<size_t>(piece.sequence)];
      const int32_t* table = &tables_[static_cast<size_t>(piece.sequence * kBlocksPerSequence)];
      append(q, piece.tokens->q, done, piece.count, piece.tokens->count);
      append(q_sinks, piece.tokens->q_sinks, done, piece.count, piece.tokens->count);
      gaps.push_back(append_table(tables, table, static_cast<int32_t>(done)));
      append(k, piece.tokens->k, done, piece.count, piece.tokens->count);
      append(v, piece.tokens->v, done, piece.count, piece.tokens->count);
      for (size_t i = 0; i < piece.count; ++i, ++done) {
        const auto position = static_cast<int32_t>(done);
        positions.push_back(position);
        slots.push_back(static_cast<int64_t>(table[position / shape_.block_tokens]) *
                            shape_.block_tokens +
                        position % shape_.block_tokens);
      }
      query_start.push_back(static_cast<int32_t>(positions.size()));
    }
    const size_t n = positions.size();
    std::vector<float> out(n * static_cast<size_t>(shape_.heads * shape_.value_dim), NAN);
    KvWriteArgs write{k.data(), v.data(), k.size() / n, v.size() / n, slots.data(), n, kv_, 1};
    backend_.kv_write(write);
    AttentionArgs args;
    args.q = q.data();
    args.out = out.data();
    args.q_stride = q.size() / n;
    args.out_stride = out.size() / n;
    args.tokens = n;
    args.heads = static_cast<size_t>(shape_.heads);
    args.sequences = pieces.size();
    args.query_start = query_start.data();
    args.positions = positions.data();
    args.block_tables = tables.data();
    args.block_table_stride = kBlocksPerSequence;
    args.block_gaps = shape_.window > 0 ? gaps.data() : nullptr;
    args.kv = kv_;
    args.layer = 1;
    args.scale = scale(shape_);
    args.window = shape_.window;
    args.sinks = shape_.sinks;
    args.q_sinks = q_sinks.data();
    args.q_sinks_stride = args.q_stride;
    args.softcap = shape_.softcap;
    backend_.attention(args);
    backend_.synchronise();
    return out;
  }

  static float scale(const Shape& s) { return 1.0f / std::sqrt(static_cast<float>(s.key_dim)); }

 private:
  // The table of a sequence whose next token is at `position`, without the blocks that it and later
  // ones do not see. Result: how many were left out.
  int32_t append_table(std::vector<int32_t>& tables, const int32_t* table, int32_t position) const {
    const int32_t sinks = (shape_.sinks + shape_.block_tokens - 1) / shape_.block_tokens;
    const int32_t first = std::max(0, position - shape_.window + 1) / shape_.block_tokens;
    const int32_t gap = shape_.window > 0 ? std::max(0, first - sinks) : 0;
    tables.insert(tables.end(), table, table + sinks);
    tables.insert(tables.end(), table + sinks + gap, table + kBlocksPerSequence);
    tables.insert(tables.end(), static_cast<size_t>(gap), std::numeric_limits<int32_t>::max());
    return gap;
  }

  static void append(std::vector<float>& to, const std::vector<float>& from, size_t first,
                     size_t count, size_t total) {
    const size_t width = from.size() / total;
    to.insert(to.end(), from.begin() + static_cast<ptrdiff_t>(first * width),
              from.begin() + static_cast<ptrdiff_t>((first + count) * width));
  }

  Backend& backend_;
  Shape shape_;
  KvLayerView layers_[2];
  std::unique_ptr<DeviceBuffer> pool_;
  PagedKvView kv_;
  std::vector<int32_t> tables_;
  std::vector<size_t> done_;
};

// A whole prompt in pieces of `chunk` tokens.
std::vector<float> prefill(Backend& backend, const Shape& shape, const Tokens& tokens,
                           size_t chunk) {
  Cache cache(backend, shape, 1);
  std::vector<float> out;
  for (size_t done = 0; done < tokens.count; done += chunk) {
    const auto part = cache.step({{0, &tokens, std::min(chunk, tokens.count - done)}});
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

float stored(KvFormat format, float x) {
  return format == KvFormat::kF32 ? x : bf16_to_f32(f32_to_bf16(x));
}

// One output row in double, from the stored keys and values and the query as the kernel sees it.
std::vector<double> reference_row(const Shape& s, const Tokens& tokens, size_t t, int head) {
  const auto kd = static_cast<size_t>(s.key_dim), vd = static_cast<size_t>(s.value_dim);
  const auto kvh = static_cast<size_t>(s.kv_heads);
  const auto kv_head = static_cast<size_t>(head / (s.heads / s.kv_heads));
  const size_t first = s.window > 0 && t + 1 > static_cast<size_t>(s.window)
                           ? t + 1 - static_cast<size_t>(s.window)
                           : 0;
  const size_t at = (t * static_cast<size_t>(s.heads) + static_cast<size_t>(head)) * kd;
  std::vector<double> scores;
  std::vector<size_t> seen;
  for (size_t i = 0; i <= t; ++i) {
    const bool is_sink = i < static_cast<size_t>(s.sinks);
    if (!is_sink && i < first) continue;
    const float* q = is_sink ? &tokens.q_sinks[at] : &tokens.q[at];
    const float* k = &tokens.k[(i * kvh + kv_head) * kd];
    double score = 0;
    for (size_t d = 0; d < kd; ++d) {
      score += static_cast<double>(stored(s.format, q[d])) * stored(s.format, k[d]);
    }
    score *= Cache::scale(s);
    if (s.softcap != 0) score = s.softcap * std::tanh(score / s.softcap);
    scores.push_back(score);
    seen.push_back(i);
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  std::vector<double> out(vd, 0.0);
  for (size_t n = 0; n < seen.size(); ++n) {
    const double weight = std::exp(scores[n] - largest);
    sum += weight;
    const float* v = &tokens.v[(seen[n] * kvh + kv_head) * vd];
    for (size_t d = 0; d < vd; ++d) out[d] += weight * stored(s.format, v[d]);
  }
  for (double& value : out) value /= sum;
  return out;
}

class AttentionTest : public testing::TestWithParam<std::tuple<Isa, Shape>> {
 protected:
  Isa isa() const { return std::get<0>(GetParam()); }
  Shape shape() const { return std::get<1>(GetParam()); }
};

TEST_P(AttentionTest, MatchesDoubleReference) {
  auto backend = make_backend(isa());
  const Shape s = shape();
  const Tokens tokens(s, 600, 21);
  const auto out = prefill(*backend, s, tokens, 600);
  const auto vd = static_cast<size_t>(s.value_dim);
  for (const size_t t : {0, 1, 15, 16, 17, 33, 300, 511, 512, 513, 599}) {
    for (int h = 0; h < s.heads; ++h) {
      const auto expected = reference_row(s, tokens, t, h);
      for (size_t d = 0; d < vd; ++d) {
        const float got = out[(t * static_cast<size_t>(s.heads) + static_cast<size_t>(h)) * vd + d];
        // Weights are off by the error of their scores (dim roundings of terms of size 1) and of
        // exp; values are below 5.
        const double tolerance = 5 * (std::sqrt(static_cast<double>(s.key_dim)) + 8) * 6e-8 * 8;
        ASSERT_NEAR(got, expected[d], tolerance) << "token " << t << " head " << h << " dim " << d;
      }
    }
  }
}

TEST_P(AttentionTest, BitsDoNotDependOnChunksOrThreads) {
  const Shape s = shape();
  const Tokens tokens(s, 530, 22);
  auto backend = make_backend(isa());
  const auto whole = prefill(*backend, s, tokens, 530);
  for (const float value : whole) ASSERT_TRUE(std::isfinite(value));
  for (const size_t chunk : {1, 7, 64}) {
    EXPECT_TRUE(same_bits(prefill(*backend, s, tokens, chunk), whole)) << chunk;
  }
  for (const int threads : {2, 3, 4}) {
    auto many = make_backend(isa(), threads);
    EXPECT_TRUE(same_bits(prefill(*many, s, tokens, 530), whole)) << threads << " threads";
    EXPECT_TRUE(same_bits(prefill(*many, s, tokens, 64), whole)) << threads << " threads";
  }
}

// Decode of a long sequence beside prefills and decodes of others.
TEST_P(AttentionTest, BitsDoNotDependOnTheBatch) {
  const Shape s = shape();
  std::vector<Tokens> sequences;
  std::vector<std::vector<float>> alone;
  auto backend = make_backend(isa());
  for (size_t i = 0; i < 4; ++i) {
    sequences.emplace_back(s, 40 + 130 * i, 30 + i);
    alone.push_back(prefill(*backend, s, sequences[i], sequences[i].count));
  }
  for (const int threads : {1, 4}) {
    auto mixed = make_backend(isa(), threads);
    Cache cache(*mixed, s, 4);
    std::vector<size_t> done(4);
    std::vector<std::vector<float>> together(4);
    const size_t row = static_cast<size_t>(s.heads * s.value_dim);
    for (size_t step = 0;; ++step) {
      std::vector<Cache::Piece> pieces;
      for (size_t i = 0; i < 4; ++i) {
        const size_t left = sequences[i].count - done[i];
        const size_t count = std::min(left, step == 0 ? 31 * (i + 1) : i == 1 ? 1 : 17 * i + 1);
        if (count > 0) pieces.push_back({static_cast<int>(i), &sequences[i], count});
      }
      if (pieces.empty()) break;
      const auto out = cache.step(pieces);
      size_t at = 0;
      for (const auto& piece : pieces) {
        const auto i = static_cast<size_t>(piece.sequence);
        together[i].insert(together[i].end(), out.begin() + static_cast<ptrdiff_t>(at * row),
                           out.begin() + static_cast<ptrdiff_t>((at + piece.count) * row));
        done[i] += piece.count;
        at += piece.count;
      }
    }
    for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(same_bits(together[i], alone[i])) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, AttentionTest,
    testing::Combine(testing::ValuesIn(detect_cpu_features().usable),
                     testing::Values(Shape{KvFormat::kF32, 4, 2, 8, 8, 16},
                                     Shape{KvFormat::kF32, 3, 1, 80, 80, 32},
                                     Shape{KvFormat::kF32, 8, 1, 64, 64, 64, 100},
                                     Shape{KvFormat::kBF16, 4, 4, 33, 20, 32},
                                     Shape{KvFormat::kBF16, 6, 2, 96, 96, 64},
                                     Shape{KvFormat::kBF16, 2, 1, 128, 128, 16, 40, 30.0f},
                                     Shape{KvFormat::kF32, 4, 1, 16, 16, 16, 50, 0, 4},
                                     Shape{KvFormat::kBF16, 4, 2, 32, 32, 32, 300, 0, 40})),
    [](const auto& test) {
      return std::string(isa_name(std::get<0>(test.param))) + "_" +
             shape_name(std::get<1>(test.param));
    });

}  // namespace
}  // namespace quipu
