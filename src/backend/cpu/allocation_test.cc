// A steady decode step allocates nothing: operator new and the scratch buffers stay still.
#include <atomic>
#include <cstdlib>
#include <new>

#include "backend/cpu/test_util.h"

namespace {
std::atomic<size_t> allocations{0};
}

// Counts every allocation of the test program.
void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace quipu {
namespace {

using cpu_test::make_backend;
using cpu_test::random_floats;
using cpu_test::StoredMatrix;

TEST(Allocation, SteadyDecodeAllocatesNothing) {
  constexpr size_t kDim = 256, kHeads = 4, kHeadDim = 64, kBlocks = 40, kBlockTokens = 32;
  auto backend = make_backend(detect_cpu_features().usable.back(), 2);
  Random random(1);
  const StoredMatrix matrix(DType::kQ4_K, kDim, kDim, random),
      table(DType::kQ8_0, 10, kDim, random);
  const auto weight = backend->load_linear(matrix.view).value();
  const auto embedding = backend->load_embedding(table.view).value();
  const auto ones = random_floats(random, kDim), cos_sin = random_floats(random, kHeadDim);
  const KvLayerView layer{
      make_kv_layer_layout(KvFormat::kBF16, kHeads, kHeadDim, kHeadDim, kBlockTokens), 0};
  auto pool = backend->allocate(kBlocks * layer.layout.layer_bytes).value();
  const PagedKvView kv{pool->data(), layer.layout.layer_bytes, kBlockTokens, &layer, 1};
  std::vector<int32_t> blocks(kBlocks);
  for (size_t i = 0; i < kBlocks; ++i) blocks[i] = static_cast<int32_t>(i);
  std::vector<float> x(kDim), y(kDim);

  const auto step = [&](int32_t position) {
    const int32_t id = 3, starts[2] = {0, 1};
    const int64_t slot = position;
    int32_t best = 0;
    backend->embed({embedding.get(), &id, x.data(), 1});
    backend->norm(
        {NormKind::kRms, x.data(), y.data(), ones.data(), nullptr, 1, 1, kDim, kDim, kDim, 1e-5f});
    const LinearOutput output{weight.get(), nullptr, x.data(), kDim, LinearStore::kAdd};
    backend->linear({y.data(), kDim, 1, {&output, 1}});
    backend->rope({x.data(), cos_sin.data(), 1, kHeads, kHeadDim, kHeadDim, kDim});
    backend->kv_write({x.data(), x.data(), kDim, kDim, &slot, 1, kv, 0});
    AttentionArgs attention;
    attention.q = x.data();
    attention.out = y.data();
    attention.q_stride = attention.out_stride = kDim;
    attention.tokens = attention.sequences = 1;
    attention.heads = kHeads;
    attention.query_start = starts;
    attention.positions = &position;
    attention.block_tables = blocks.data();
    attention.block_table_stride = kBlocks;
    attention.kv = kv;
    backend->attention(attention);
    backend->activation(
        {Activation::kSilu, y.data(), x.data(), y.data(), 1, kDim, kDim, kDim, kDim});
    backend->arg_max({y.data(), &best, 1, kDim});
    backend->synchronise();
  };
  // The longest context first, as the engine's scratch is sized by then.
  for (int32_t position = 0; position < 1200; ++position) step(position);
  const size_t before = allocations.load();
  for (int32_t position = 600; position < 1200; ++position) step(position);
  EXPECT_EQ(allocations.load(), before);
}

}  // namespace
}  // namespace quipu
