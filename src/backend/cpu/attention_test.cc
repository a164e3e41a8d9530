// Attention: against a reference in double, and bit equality over prefill chunks, batches, threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/cpu/hadamard.h"
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
  bool sees_all = false;  // key_counts: every query sees all keys of its sequence
  bool biased = false;    // by distance
  int32_t sinks = 0;
};

std::string shape_name(const Shape& s) {
  return fmt::format("{}_h{}_{}_k{}_v{}_b{}_w{}_s{}_c{}{}{}", kv_format_name(s.format), s.heads,
                     s.kv_heads, s.key_dim, s.value_dim, s.block_tokens, s.window, s.sinks,
                     s.softcap != 0 ? 1 : 0, s.sees_all ? "_all" : "", s.biased ? "_biased" : "");
}

constexpr int kSpan = 700;  // largest distance of the tests

float bias_at(int head, int distance) {
  return 2.0f * std::sin(0.7f * static_cast<float>(distance + 31 * head));
}

// SHAPE: [heads, margin, 2 * kSpan + 1, margin]; the margins are NaN.
std::vector<float> make_bias(int heads) {
  std::vector<float> table;
  for (int head = 0; head < heads; ++head) {
    table.insert(table.end(), kAttentionBiasMargin, NAN);
    for (int d = -kSpan; d <= kSpan; ++d) table.push_back(bias_at(head, d));
    table.insert(table.end(), kAttentionBiasMargin, NAN);
  }
  return table;
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
    bias_ = make_bias(shape.heads);
  }

  struct Piece {
    int sequence;
    const Tokens* tokens;
    size_t count;  // the next so many tokens of the sequence
  };

  // One step: writes the pieces' keys and values and returns their attention, piece after piece.
  std::vector<float> step(const std::vector<Piece>& pieces) {
    std::vector<float> q, q_sinks, k, v;
    std::vector<int32_t> query_start{0}, positions, tables, gaps, key_counts;
    std::vector<int64_t> slots;
    for (const Piece& piece : pieces) {
      if (shape_.sees_all && done_[static_cast<size_t>(piece.sequence)] == 0) write_all(piece);
      key_counts.push_back(static_cast<int32_t>(piece.tokens->count));
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
    KvWriteArgs write{k.data(), v.data(), k.size() / n, v.size() / n, slots.data(), n, kv_, 1,
                      pieces.size(), query_start.data(), positions.data(), tables.data(),
                      kBlocksPerSequence, shape_.window > 0 ? gaps.data() : nullptr};
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
    if (shape_.sees_all) args.key_counts = key_counts.data();
    if (shape_.biased) {
      args.bias = bias_.data() + kAttentionBiasMargin + kSpan;
      args.bias_stride = bias_.size() / args.heads;
    }
    backend_.attention(args);
    backend_.synchronise();
    return out;
  }

  // The first `tokens` tokens of `from`, whole blocks, become those of `to` as well.
  void share(int from, int to, size_t tokens) {
    const auto blocks = static_cast<ptrdiff_t>(tokens) / shape_.block_tokens;
    std::copy_n(tables_.begin() + from * kBlocksPerSequence, blocks,
                tables_.begin() + to * kBlocksPerSequence);
    done_[static_cast<size_t>(to)] = tokens;
  }

  static float scale(const Shape& s) { return 1.0f / std::sqrt(static_cast<float>(s.key_dim)); }

 private:
  // The keys and values of a whole sequence, before any of its queries.
  void write_all(const Piece& piece) {
    const int32_t* table = &tables_[static_cast<size_t>(piece.sequence * kBlocksPerSequence)];
    const size_t n = piece.tokens->count;
    std::vector<int64_t> slots;
    for (int32_t t = 0; t < static_cast<int32_t>(n); ++t) {
      slots.push_back(static_cast<int64_t>(table[t / shape_.block_tokens]) * shape_.block_tokens +
                      t % shape_.block_tokens);
    }
    KvWriteArgs write{piece.tokens->k.data(),
                      piece.tokens->v.data(),
                      piece.tokens->k.size() / n,
                      piece.tokens->v.size() / n,
                      slots.data(),
                      n,
                      kv_,
                      1};
    backend_.kv_write(write);
  }

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
  std::vector<float> bias_;
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

using Rows = std::vector<std::vector<double>>;

uint16_t bf16_towards_infinity(float x) {  // REQUIRES: x >= 0
  uint16_t bits = f32_to_bf16(x);
  if (bf16_to_f32(bits) < x) ++bits;
  return bits;
}

std::vector<double> int8_row(const float* x, size_t n) {
  float largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  const float scale = bf16_to_f32(bf16_towards_infinity(largest / 127));
  std::vector<double> row;
  for (size_t i = 0; i < n; ++i) {
    const float code = scale == 0 ? 0 : std::nearbyint(x[i] * (1 / scale));
    row.push_back(code * scale);
  }
  return row;
}

// One group of `size` elements after another: 16 steps from a minimum, both in bf16.
std::vector<double> int4_row(const float* x, size_t n, size_t size) {
  std::vector<double> row;
  for (size_t begin = 0; begin < n; begin += size) {
    const size_t end = std::min(n, begin + size);
    const auto [low, high] = std::minmax_element(x + begin, x + end);
    uint16_t bits = f32_to_bf16(*low);
    if (bf16_to_f32(bits) > *low) bits = static_cast<uint16_t>(*low < 0 ? bits + 1 : bits - 1);
    const float minimum = bf16_to_f32(bits);
    const float scale = bf16_to_f32(bf16_towards_infinity((*high - minimum) / 15));
    for (size_t i = begin; i < end; ++i) {
      const float steps = scale == 0 ? 0 : std::floor((x[i] - minimum) * (1 / scale) + 0.5f);
      row.push_back(static_cast<double>(minimum) + std::min(steps, 15.0f) * scale);
    }
  }
  return row;
}

std::vector<float> rotated(const float* x, size_t n) {
  std::vector<float> out(x, x + n);
  cpu::rotate_hadamard(out.data(), n);  // codes_test.cc says what it is
  return out;
}

// The int4 keys of one head, in order, with the roundings of what is stored: one code that differs
// would change the means of all later tiles. SHAPE: x: [tokens][stride], the head's first element.
Rows int4_keys(const float* x, size_t tokens, size_t stride, size_t n) {
  Rows keys;
  std::vector<float> mean(n), sum(n), rest(n);
  for (size_t t = 0; t < tokens; ++t) {
    if (t % 16 == 0 && t > 0) {
      for (size_t d = 0; d < n; ++d) mean[d] = sum[d] * (1.0f / 16) + mean[d];
      const auto coded = int8_row(mean.data(), n);
      mean.assign(coded.begin(), coded.end());
      sum.assign(n, 0.0f);
    }
    const auto whole = rotated(x + t * stride, n);
    for (size_t d = 0; d < n; ++d) rest[d] = whole[d] - mean[d];
    auto key = int4_row(rest.data(), n, 32);
    for (size_t d = 0; d < n; ++d) {
      sum[d] += static_cast<float>(key[d]);
      key[d] += mean[d];
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

enum class Part { kKeys, kValues };

// Short keys are never codes.
KvFormat stored_format(const Shape& s, Part part) {
  const bool plain = part == Part::kKeys && kv_format_has_codes(s.format) && s.key_dim < 16;
  return plain ? KvFormat::kBF16 : s.format;
}

// Keys or values of one head as they are stored; int4 keys are rotated.
Rows stored_rows(const Shape& s, const Tokens& tokens, Part part, size_t head) {
  const auto n = static_cast<size_t>(part == Part::kKeys ? s.key_dim : s.value_dim);
  const size_t stride = n * static_cast<size_t>(s.kv_heads);
  const float* x = (part == Part::kKeys ? tokens.k : tokens.v).data() + head * n;
  const KvFormat format = stored_format(s, part);
  if (format == KvFormat::kInt4 && part == Part::kKeys)
    return int4_keys(x, tokens.count, stride, n);
  Rows rows;
  for (size_t t = 0; t < tokens.count; ++t, x += stride) {
    std::vector<double> row(x, x + n);
    if (format == KvFormat::kInt8) row = int8_row(x, n);
    if (format == KvFormat::kInt4) row = int4_row(x, n, 64);
    if (format == KvFormat::kBF16) {
      for (double& value : row) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

// A query as the kernel multiplies it. Where it meets codes it has codes of 15 bits itself: they
// count as exact here, and the tolerance has room for them.
std::vector<double> seen_query(const Shape& s, const float* q) {
  const auto n = static_cast<size_t>(s.key_dim);
  std::vector<double> seen(q, q + n);
  if (stored_format(s, Part::kKeys) == KvFormat::kInt4) {
    const auto turned = rotated(q, n);
    seen.assign(turned.begin(), turned.end());
  }
  if (stored_format(s, Part::kKeys) == KvFormat::kBF16) {
    for (double& value : seen) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
  }
  return seen;
}

struct ReferenceRow {
  std::vector<double> out;
  std::vector<double> size;  // of each output: the root of the sum of its squared terms
  double weight_size;  // the same of weights, each as large as the largest of its 32 positions
};

// One output row in double, from the stored keys and values of its KV head.
ReferenceRow reference_row(const Shape& s, const Tokens& tokens, const Rows& keys,
                           const Rows& values, size_t t, int head) {
  const auto kd = static_cast<size_t>(s.key_dim), vd = static_cast<size_t>(s.value_dim);
  const size_t first = s.window > 0 && t + 1 > static_cast<size_t>(s.window)
                           ? t + 1 - static_cast<size_t>(s.window)
                           : 0;
  const size_t at = (t * static_cast<size_t>(s.heads) + static_cast<size_t>(head)) * kd;
  const auto to_window = seen_query(s, &tokens.q[at]);
  const auto to_sinks = seen_query(s, &tokens.q_sinks[at]);
  const size_t end = s.sees_all ? tokens.count : t + 1;
  std::vector<double> scores;
  std::vector<size_t> seen;
  for (size_t i = 0; i < end; ++i) {
    const bool is_sink = i < static_cast<size_t>(s.sinks);
    if (!is_sink && i < first) continue;
    const auto& q = is_sink ? to_sinks : to_window;
    double score = 0;
    for (size_t d = 0; d < kd; ++d) score += q[d] * keys[i][d];
    score *= Cache::scale(s);
    if (s.softcap != 0) score = s.softcap * std::tanh(score / s.softcap);
    if (s.biased) score += bias_at(head, static_cast<int>(i) - static_cast<int>(t));
    scores.push_back(score);
    seen.push_back(i);
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  ReferenceRow row{std::vector<double>(vd, 0.0), std::vector<double>(vd, 0.0), 0.0};
  std::vector<double> largest_of(tokens.count / 32 + 1, 0.0);
  for (size_t n = 0; n < seen.size(); ++n) {
    const double weight = std::exp(scores[n] - largest);
    sum += weight;
    double& largest_near = largest_of[seen[n] / 32];
    largest_near = std::max(largest_near, weight);
    for (size_t d = 0; d < vd; ++d) {
      const double term = weight * values[seen[n]][d];
      row.out[d] += term;
      row.size[d] += term * term;
    }
  }
  for (double& value : row.out) value /= sum;
  for (double& value : row.size) value = std::sqrt(value) / sum;
  for (const double weight : largest_of) row.weight_size += 32 * weight * weight;
  row.weight_size = std::sqrt(row.weight_size) / sum;
  return row;
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
  Rows keys, values;
  for (int h = 0; h < s.heads; ++h) {
    const int group = s.heads / s.kv_heads;
    if (h % group == 0) {
      keys = stored_rows(s, tokens, Part::kKeys, static_cast<size_t>(h / group));
      values = stored_rows(s, tokens, Part::kValues, static_cast<size_t>(h / group));
    }
    for (const size_t t : {0, 1, 15, 16, 17, 33, 300, 511, 512, 513, 599}) {
      const auto expected = reference_row(s, tokens, keys, values, t, h);
      for (size_t d = 0; d < vd; ++d) {
        const float got = out[(t * static_cast<size_t>(s.heads) + static_cast<size_t>(h)) * vd + d];
        // Weights are off by the error of their scores (dim roundings of terms of size 1) and of
        // exp; values are below 5.
        double tolerance = 5 * (std::sqrt(static_cast<double>(s.key_dim)) + 8) * 6e-8 * 8;
        // Queries and weights of 15 bits: each score is off by up to about 4 sigma of
        // 4 / 16256 / sqrt(12), each weight by half a step of 1 / 16256.
        if (kv_format_has_codes(s.format)) tolerance = 5 * 4 * 4 / 16256.0 / 3.46 + 5 / 32512.0;
        // int4: queries and weights of 8 bits. A step of the query is about 4 / 127 in each of its
        // elements, which meet keys of size 1; one of weights is 1 / 127 of the largest of 32, and
        // meets codes of a range of about 8. Both are off by up to half a step, by chance: 4 sigma.
        if (s.format == KvFormat::kInt4) {
          tolerance += 4 * expected.size[d] * 4 / 127 / std::sqrt(12.0);
          tolerance += 4 * expected.weight_size * 8 / 127 / std::sqrt(12.0);
        }
        // Weights in bf16: each term is off by up to 2^-8 of itself, by chance up or down: 4 sigma.
        if (s.format == KvFormat::kBF16)
          tolerance += 4 / std::sqrt(3.0) * 0x1p-8 * expected.size[d];
        ASSERT_NEAR(got, expected.out[d], tolerance)
            << "token " << t << " head " << h << " dim " << d;
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

// Sequences with a prefix in the same blocks, which are read for all of them at once: four share
// 512 tokens, two of these 512 more, one shares nothing, and one still computes its prompt.
class SharedPrefixTest : public AttentionTest {};

TEST_P(SharedPrefixTest, BitsDoNotDependOnSharedPrefixes) {
  const Shape s = shape();
  const Tokens stem(s, 1024, 50);
  std::vector<Tokens> sequences;
  const std::vector<size_t> common = {1024, 1024, 512, 512, 0, 512};
  for (size_t i = 0; i < common.size(); ++i) {
    sequences.emplace_back(s, 1024 + 9, 60 + i);
    Tokens& own = sequences.back();
    for (auto [to, from] : {std::pair{&own.q, &stem.q}, {&own.k, &stem.k}, {&own.v, &stem.v}}) {
      const size_t width = from->size() / stem.count;
      std::copy_n(from->begin(), static_cast<ptrdiff_t>(common[i] * width), to->begin());
    }
  }
  const size_t row = static_cast<size_t>(s.heads * s.value_dim);
  auto backend = make_backend(isa());
  std::vector<std::vector<float>> alone;
  for (const Tokens& tokens : sequences) alone.push_back(prefill(*backend, s, tokens, 1033));
  for (const int threads : {1, 3}) {
    auto many = make_backend(isa(), threads);
    Cache cache(*many, s, static_cast<int>(sequences.size()));
    cache.step({{0, &sequences[0], 1024}});
    std::vector<size_t> done = common;
    for (size_t i = 1; i < common.size(); ++i) {
      if (common[i] > 0) cache.share(0, static_cast<int>(i), common[i]);
      // All but the last are at their last tokens.
      if (i + 1 == common.size() || done[i] == 1024) continue;
      cache.step({{static_cast<int>(i), &sequences[i], 1024 - done[i]}});
      done[i] = 1024;
    }
    for (int step = 0; step < 9; ++step) {
      std::vector<Cache::Piece> pieces;
      for (size_t i = 0; i < common.size(); ++i) {
        const size_t count = i + 1 == common.size() ? 37 : 1;
        pieces.push_back({static_cast<int>(i), &sequences[i], count});
      }
      const auto out = cache.step(pieces);
      size_t at = 0;
      for (size_t i = 0; i < pieces.size(); at += pieces[i].count, ++i) {
        const std::vector<float> got(out.begin() + static_cast<ptrdiff_t>(at * row),
                                     out.begin() + static_cast<ptrdiff_t>((at + pieces[i].count) * row));
        const std::vector<float> want(
            alone[i].begin() + static_cast<ptrdiff_t>(done[i] * row),
            alone[i].begin() + static_cast<ptrdiff_t>((done[i] + pieces[i].count) * row));
        ASSERT_TRUE(same_bits(got, want)) << threads << " threads, step " << step << ", " << i;
        done[i] += pieces[i].count;
      }
    }
  }
}

// Small heads: two chunks of six sequences are work enough for the scalar set under sanitizers.
INSTANTIATE_TEST_SUITE_P(
    All, SharedPrefixTest,
    testing::Combine(testing::ValuesIn(detect_cpu_features().usable),
                     testing::Values(Shape{KvFormat::kF32, 4, 2, 16, 16, 64},
                                     Shape{KvFormat::kBF16, 6, 2, 20, 12, 64},
                                     Shape{KvFormat::kInt8, 2, 2, 16, 20, 64, 0, 30.0f},
                                     Shape{KvFormat::kInt4, 3, 1, 32, 16, 64})),
    [](const auto& test) {
      return std::string(isa_name(std::get<0>(test.param))) + "_" +
             shape_name(std::get<1>(test.param));
    });

INSTANTIATE_TEST_SUITE_P(
    All, AttentionTest,
    testing::Combine(testing::ValuesIn(detect_cpu_features().usable),
                     testing::Values(Shape{KvFormat::kF32, 4, 2, 8, 8, 16},
                                     Shape{KvFormat::kF32, 3, 1, 80, 80, 32},
                                     Shape{KvFormat::kF32, 8, 1, 64, 64, 64, 100},
                                     Shape{KvFormat::kBF16, 4, 4, 33, 20, 32},
                                     Shape{KvFormat::kBF16, 6, 2, 96, 96, 64},
                                     Shape{KvFormat::kF32, 4, 2, 64, 64, 32, 0, 0.5f},
                                     Shape{KvFormat::kBF16, 2, 1, 128, 128, 16, 40, 30.0f},
                                     Shape{KvFormat::kF32, 4, 4, 16, 16, 32, 0, 0, true},
                                     Shape{KvFormat::kF32, 3, 3, 24, 20, 16, 0, 0, true, true},
                                     Shape{KvFormat::kBF16, 4, 2, 64, 64, 32, 0, 0, false, true},
                                     Shape{KvFormat::kInt8, 8, 4, 8, 8, 16},
                                     Shape{KvFormat::kInt8, 3, 1, 80, 80, 32},
                                     Shape{KvFormat::kInt8, 4, 4, 33, 20, 32, 100},
                                     Shape{KvFormat::kInt8, 6, 1, 96, 256, 64, 0, 30.0f},
                                     Shape{KvFormat::kInt8, 2, 1, 128, 128, 16, 40, 30.0f},
                                     Shape{KvFormat::kInt4, 8, 4, 8, 8, 16},
                                     Shape{KvFormat::kInt4, 3, 1, 80, 80, 32},
                                     Shape{KvFormat::kInt4, 4, 4, 33, 20, 32, 100},
                                     Shape{KvFormat::kInt4, 6, 1, 96, 256, 64, 0, 30.0f},
                                     Shape{KvFormat::kInt4, 2, 1, 128, 128, 16, 40, 30.0f},
                                     Shape{KvFormat::kF32, 4, 1, 16, 16, 16, 50, 0, false, false, 4},
                                     Shape{KvFormat::kBF16, 4, 2, 32, 32, 32, 300, 0, false, false, 40},
                                     Shape{KvFormat::kInt8, 4, 1, 16, 16, 16, 50, 0, false, false, 4},
                                     Shape{KvFormat::kInt4, 4, 2, 32, 32, 32, 300, 0, false, false, 40})),
    [](const auto& test) {
      return std::string(isa_name(std::get<0>(test.param))) + "_" +
             shape_name(std::get<1>(test.param));
    });

}  // namespace
}  // namespace quipu
