// A steady decode step allocates nothing: everything is sized at start or when a request arrives.
// The one exception is a block that closes: it becomes a node of the prefix index, once in 32
// tokens.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tiny_engine.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void* counted(size_t bytes, size_t alignment) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return counted(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace quipu::exactness {
namespace {

struct Counted {
  int64_t allocations = 0;  // in steps that close no block
  int steps = 0;            // of that kind
  int events = 0;
};

// Allocations in up to `steps` decode steps of `requests` sequences that were submitted together.
Counted count_allocations(Engine& engine, int requests, float temperature, int warm_up_steps,
                          int steps) {
  for (int i = 0; i < requests; ++i) {
    Request request =
        make_request(random_tokens(static_cast<uint64_t>(i), 40), 400, LogitsWanted::kNone);
    request.id = RequestId(i);
    request.sampling.temperature = temperature;
    add_input(engine.model().config(), request);
    const Status status = engine.submit(std::move(request));
    QUIPU_CHECK(status.ok(), "{}", status.message());
  }
  for (int step = 0; step < warm_up_steps; ++step) engine.step();
  Counted counted;
  for (int step = 0; step < steps; ++step) {
    const int64_t closed_before = engine.scheduler().cache().counters().blocks_published;
    allocations = 0;
    counting = true;
    counted.events += static_cast<int>(engine.step().size());
    counting = false;
    if (engine.scheduler().cache().counters().blocks_published != closed_before) continue;
    counted.allocations += allocations;
    ++counted.steps;
  }
  return counted;
}

class SteadyState : public testing::TestWithParam<float> {};

TEST_P(SteadyState, ADecodeStepAllocatesNothing) {
  for (const DType weights : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_K}) {
    const auto model =
        open_tiny_model("tiny-llama", weights, detect_cpu_features().usable.back(), 2);
    for (const int requests : {1, 6}) {
      TinyEngine tiny(*model, {.kv_format = KvFormat::kBF16});
      const Counted counted = count_allocations(*tiny.engine, requests, GetParam(), 10, 200);
      EXPECT_EQ(counted.events, 200 * requests) << "the steps did not decode";
      EXPECT_GE(counted.steps, 190);  // all sequences close their blocks in the same steps
      EXPECT_EQ(counted.allocations, 0) << dtype_name(weights) << ", " << requests << " requests";
    }
  }
}

TEST_P(SteadyState, ADecodeStepWithCrossAttentionAllocatesNothing) {
  const auto model =
      open_tiny_model("tiny-t5", DType::kQ8_0, detect_cpu_features().usable.back(), 2);
  TinyEngine tiny(*model, {.kv_format = KvFormat::kBF16});
  const Counted counted = count_allocations(*tiny.engine, 6, GetParam(), 10, 200);
  EXPECT_EQ(counted.events, 200 * 6) << "the steps did not decode";
  EXPECT_EQ(counted.allocations, 0);
}

INSTANTIATE_TEST_SUITE_P(Temperature, SteadyState, testing::Values(0.0f, 1.0f),
                         [](const auto& setting) {
                           return setting.param == 0 ? "greedy" : "drawn";
                         });

TEST(AllocationCounter, Counts) {
  allocations = 0;
  counting = true;
  auto* numbers = new std::vector<int>(100);
  counting = false;
  delete numbers;
  EXPECT_EQ(allocations, 2);
}

}  // namespace
}  // namespace quipu::exactness
