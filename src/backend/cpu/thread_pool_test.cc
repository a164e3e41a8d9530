// The gang: every thread takes part, barriers hold, also with more threads than cores.
#include "backend/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>

namespace quipu::cpu {
namespace {

TEST(ThreadPool, EveryThreadRunsOncePerJob) {
  for (const int threads : {1, 2, 3, 8, 64}) {
    ThreadPool pool(threads, true);
    std::array<int, 64> runs{};
    for (int job = 0; job < 50; ++job) {
      pool.run([&](int thread, int count) {
        EXPECT_EQ(count, threads);
        ++runs[static_cast<size_t>(thread)];
      });
    }
    for (int i = 0; i < 64; ++i) EXPECT_EQ(runs[static_cast<size_t>(i)], i < threads ? 50 : 0);
  }
}

TEST(ThreadPool, BarrierSeparatesPhases) {
  for (const int threads : {1, 2, 4, 16}) {
    ThreadPool pool(threads, false);
    for (int job = 0; job < 30; ++job) {
      std::array<int, 16> written{};
      std::atomic<int> wrong{0};
      pool.run([&](int thread, int count) {
        for (int phase = 1; phase <= 3; ++phase) {
          written[static_cast<size_t>(thread)] = phase;
          pool.barrier();
          for (int i = 0; i < count; ++i) {
            if (written[static_cast<size_t>(i)] != phase) wrong.fetch_add(1);
          }
          pool.barrier();
        }
      });
      EXPECT_EQ(wrong.load(), 0);
    }
  }
}

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(5, false);
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  ThreadPool pool(3, false);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // long past the spinning
    std::atomic<int> runs{0};
    pool.run([&](int, int) { runs.fetch_add(1); });
    EXPECT_EQ(runs.load(), 3);
  }
}

}  // namespace
}  // namespace quipu::cpu
