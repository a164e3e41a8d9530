// Attention with the shapes of a 0.6B model: 16 query heads, 8 KV heads of 128.
#include <cmath>
#include <numeric>

#include "limits.h"

namespace quipu::bench {
namespace {

constexpr int kHeads = 16, kKvHeads = 8, kDim = 128, kBlockTokens = 64;

// `sequences` of `depth` tokens each; every one computes its last `tokens`. Decode goes over
// several layers, so that their caches do not stay in L3, or over one that does: what instructions
// cost where memory costs nothing.
void attention(benchmark::State& state, KvFormat format, bool cached) {
  const auto sequences = static_cast<size_t>(state.range(0));
  const auto depth = static_cast<size_t>(state.range(1));
  const auto tokens = static_cast<size_t>(state.range(2));
  const int layers = tokens == 1 && !cached ? 8 : 1;
  const KvLayerLayout layout = make_kv_layer_layout(format, kKvHeads, kDim, kDim, kBlockTokens);
  std::vector<KvLayerView> views;
  for (int i = 0; i < layers; ++i) {
    views.push_back({layout, static_cast<size_t>(i) * layout.layer_bytes});
  }
  const size_t table = (depth + kBlockTokens - 1) / kBlockTokens;
  const size_t block_bytes = layout.layer_bytes * static_cast<size_t>(layers);
  auto pool = backend().allocate(sequences * table * block_bytes).value();
  const PagedKvView kv{pool->data(), block_bytes, kBlockTokens, views.data(), layers};
  const auto k = random_floats(kKvHeads * kDim, 3);
  const int32_t one_token[] = {0, 1}, start = 0;
  std::vector<int32_t> tables(sequences * table), positions, starts{0};
  std::iota(tables.begin(), tables.end(), 0);
  for (int64_t slot = 0; slot < static_cast<int64_t>(tables.size()) * kBlockTokens; ++slot) {
    for (int layer = 0; layer < layers; ++layer) {
      backend().kv_write(
          {k.data(), k.data(), 0, 0, &slot, 1, kv, layer, 1, one_token, &start, &start, 1});
    }
  }
  for (size_t s = 0; s < sequences; ++s) {
    for (size_t i = 0; i < tokens; ++i)
      positions.push_back(static_cast<int32_t>(depth - tokens + i));
    starts.push_back(static_cast<int32_t>(positions.size()));
  }
  const auto q = random_floats(positions.size() * kHeads * kDim, 4);
  std::vector<float> out(q.size());
  AttentionArgs args;
  args.q = q.data();
  args.out = out.data();
  args.q_stride = args.out_stride = kHeads * kDim;
  args.tokens = positions.size();
  args.heads = kHeads;
  args.sequences = sequences;
  args.query_start = starts.data();
  args.positions = positions.data();
  args.block_tables = tables.data();
  args.block_table_stride = table;
  args.kv = kv;
  args.scale = 1.0f / std::sqrt(static_cast<float>(kDim));
  const auto round = [&] {
    for (args.layer = 0; args.layer < layers; ++args.layer) backend().attention(args);
    benchmark::ClobberMemory();
  };
  const double token_bytes = static_cast<double>(layout.used_bytes) / kBlockTokens;
  double seen = 0;
  for (const int32_t position : positions) seen += position + 1;
  const double bytes = seen * kKvHeads * token_bytes * layers;
  if (cached) {
    for (auto _ : state) round();
    state.counters["bytes/s"] =
        benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
  } else if (tokens == 1) {
    run_beside_reads(state, bytes, round);
  } else {
    for (auto _ : state) round();
    report(state, "ops/s", seen * kHeads * kDim * 4 * layers, limits().peaks.f32_flops);
  }
}

const int registered = [] {
  for (const KvFormat format : kKvFormats) {
    const std::string name(kv_format_name(format));
    benchmark::RegisterBenchmark(("attention_decode/" + name).c_str(), attention, format, false)
        ->Args({1, 4096, 1})
        ->Args({1, 16384, 1})
        ->Args({16, 512, 1})
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("attention_cached/" + name).c_str(), attention, format, true)
        ->Args({1, 512, 1})
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(("attention_prefill/" + name).c_str(), attention, format, false)
        ->Args({1, 512, 512})
        ->Args({1, 4608, 512})
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  return 0;
}();

}  // namespace
}  // namespace quipu::bench
