// What the cache's bookkeeping costs: quipu_kv_bench
//
//   index     bytes of the prefix index over ten million cached tokens
//   lookup    longest match of a prompt of 100,000 cached tokens
//   step      plan and commit of one decode step of 256 sequences, without a model
//   compact   bytes and speed of the host tier's form, on random normal numbers in bf16
//
// Medians of several runs; one line each. docs/KV_CACHE.md has the figures.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/random.h"
#include "engine/scheduler.h"
#include "kv/block_codec.h"

namespace quipu {
namespace {

constexpr int kBlock = 32;

double seconds_of(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median_seconds(int runs, const auto& work) {
  std::vector<double> seconds;
  for (int run = 0; run < runs; ++run) seconds.push_back(seconds_of(work));
  std::ranges::nth_element(seconds, seconds.begin() + runs / 2);
  return seconds[static_cast<size_t>(runs / 2)];
}

std::vector<TokenId> random_prompt(Random& random, size_t tokens) {
  std::vector<TokenId> prompt(tokens);
  for (TokenId& token : prompt) token = static_cast<TokenId>(random.next_below(128'000));
  return prompt;
}

void cache_prompt(KvCache& cache, std::span<const TokenId> prompt) {
  SequenceKv sequence = cache.make_sequence();
  std::vector<KvCopy> copies;
  cache.begin(sequence, prompt, static_cast<int64_t>(prompt.size()) - 1, copies);
  const auto tokens = static_cast<int64_t>(prompt.size());
  QUIPU_CHECK(cache.reserve(sequence, tokens), "the pool is too small");
  cache.append(sequence, prompt, tokens - sequence.num_tokens());
  cache.release(sequence, prompt);
}

// Ten million tokens in prompts of 10,000, the first 2,000 of each from one of ten beginnings.
void bench_index() {
  constexpr int64_t kTokens = 10'000'000;
  constexpr int kBlocks = static_cast<int>(kTokens / kBlock);
  FakeClock clock;
  KvCache cache({.groups = {{kBlocks, {}}},
                 .block_tokens = kBlock,
                 .fingerprint = "bench",
                 .policy = "reuse"},
                clock);
  Random random(1);
  std::vector<std::vector<TokenId>> beginnings;
  for (int i = 0; i < 10; ++i) beginnings.push_back(random_prompt(random, 2'000));
  while (cache.free_blocks() > 400) {
    std::vector<TokenId> prompt = beginnings[random.next_below(10)];
    const std::vector<TokenId> rest = random_prompt(random, 8'000);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    cache_prompt(cache, prompt);
  }
  const double tokens = static_cast<double>(cache.index().num_nodes()) * kBlock;
  const double per_token = static_cast<double>(cache.index().index_bytes()) / tokens;
  fmt::print(
      "index     {:.1f} MB for {:.1f} million tokens: {:.2f} bytes per token, 3 % of {:.0f}\n",
      static_cast<double>(cache.index().index_bytes()) * 1e-6, tokens * 1e-6, per_token,
      per_token / 0.03);
  const std::vector<TokenId> prompt = random_prompt(random, 100'000);
  cache_prompt(cache, prompt);
  SequenceKv asking = cache.make_sequence();
  int64_t found = 0;
  const double match = median_seconds(31, [&] { found = cache.match_length(asking, prompt); });
  std::vector<KvCopy> copies;
  const double begin = median_seconds(31, [&] {
    cache.begin(asking, prompt, found - 1, copies);
    cache.release(asking, prompt);
  });
  fmt::print("lookup    {:.2f} ms for a match of {} tokens; {:.2f} ms to begin from it and end\n",
             match * 1e3, found, begin * 1e3);
}

void bench_step() {
  constexpr int kSequences = 256;
  FakeClock clock;
  Scheduler scheduler({.batch_tokens_max = 2048,
                       .prefill_chunk_max = 2048,
                       .sequences_max = kSequences,
                       .context_length = 1 << 20},
                      {.groups = {{1 << 17, {}}},
                       .block_tokens = kBlock,
                       .fingerprint = "bench",
                       .policy = "reuse"},
                      clock);
  Random random(2);
  for (int64_t id = 0; id < kSequences; ++id) {
    Request request;
    request.id = RequestId(id);
    request.prompt = random_prompt(random, 1'000 + random.next_below(1'000));
    request.max_tokens = 100'000;
    const Status submitted = scheduler.submit(std::move(request));
    QUIPU_CHECK(submitted.ok(), "{}", submitted.message());
  }
  StepPlan plan;
  std::vector<TokenId> next(kSequences);
  std::vector<StepEvent> events;
  TokenId token = 0;
  const auto step = [&] {
    scheduler.plan(plan);
    for (TokenId& t : next) t = token++;
    events.clear();
    scheduler.commit(plan, std::span(next).first(plan.sequences.size()), events);
    clock.advance_ns(20'000'000);
  };
  const auto all_decode = [&] {
    return plan.sequences.size() == kSequences &&
           std::ranges::all_of(plan.sequences, [](const auto& s) { return s.num_tokens == 1; });
  };
  do step();
  while (!all_decode());
  fmt::print("step      {:.1f} us for {} sequences that decode\n",
             median_seconds(2'001, step) * 1e6, kSequences);
}

void bench_compact() {
  constexpr size_t kBytes = 4 << 20;  // a block of 32 tokens of an 8B model in bf16
  Random random(3);
  std::vector<std::byte> raw(kBytes), back(kBytes);
  for (size_t i = 0; i < kBytes; i += 2) {
    const float value = random.next_normal();
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits >>= 16;
    std::memcpy(raw.data() + i, &bits, 2);
  }
  CompactBlock compact;
  const double down = median_seconds(9, [&] { compact = compact_block(raw, 2); });
  bool same = true;
  const double up = median_seconds(9, [&] { same = same && expand_block(compact, back); });
  QUIPU_CHECK(same && raw == back, "the bits that came back are others");
  fmt::print("compact   {:.2f} x; {:.0f} MB/s down, {:.0f} MB/s back\n",
             static_cast<double>(kBytes) / static_cast<double>(compact.bytes.size()),
             kBytes * 1e-6 / down, kBytes * 1e-6 / up);
}

}  // namespace
}  // namespace quipu

int main() {
  quipu::bench_index();
  quipu::bench_step();
  quipu::bench_compact();
  return 0;
}
