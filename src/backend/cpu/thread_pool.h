// ThreadPool: a gang of threads that runs one function at a time, all together.
//
// run(job) calls job(thread, threads) once on every thread, the caller included (thread 0), and
// returns when all are done. Inside a job, barrier() holds each thread until all have come.
//
//   caller   publish (epoch + 1) | job(0, n) | wait until pending == 0
//   worker i wait for a new epoch | job(i, n) | pending - 1
//
// Waiting spins for a moment, because the next operation follows within microseconds, and then
// sleeps in a futex. With more threads than cores nobody spins. Nothing is allocated after
// construction.
//
// Invariants:
//   1. Every thread takes part in every job, so a job's data is never replaced under a late reader.
//   2. A job splits work by output; which thread computes what changes no bit.
//
// Pinning: when the pool has as many threads as usable cores, workers are pinned one to a core, and
// so is the thread that calls run() (at its first call; undone by the destructor on that thread).
// Smaller pools are left to the scheduler, so that two processes do not fight over the first cores.
//
// THREADS: one caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace quipu::cpu {

// The cores this process may use, read once, before anything is pinned.
const std::vector<int>& usable_cpus();

class ThreadPool {
 public:
  static constexpr int kThreadsMax = 256;

  // REQUIRES: 1 <= threads <= kThreadsMax.
  ThreadPool(int threads, bool pin);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int threads() const { return threads_; }

  // Calls job(int thread, int threads) on every thread. `job` may not throw.
  template <typename Job>
  void run(const Job& job) {
    run_erased([](const void* context, int thread,
                  int threads) { (*static_cast<const Job*>(context))(thread, threads); },
               &job);
  }

  // Waits until every thread of the running job has come. REQUIRES: called by all of them.
  void barrier();

 private:
  using Function = void (*)(const void* context, int thread, int threads);

  void run_erased(Function function, const void* context);
  void worker_loop(int thread);
  void pin_caller();

  const int threads_;
  bool pin_ = false;
  int spin_count_ = 0;
  std::vector<std::thread> workers_;
  std::thread::id pinned_caller_;

  // The job. Written by the caller before the epoch moves; read by workers after.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  std::atomic<bool> stop_{false};

  // Each word has its own cache line: workers poll one while others write the next.
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<int32_t> epoch_sleepers_{0};
  alignas(64) std::atomic<uint32_t> pending_{0};
  alignas(64) std::atomic<int32_t> pending_sleepers_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> barrier_epoch_{0};
  alignas(64) std::atomic<int32_t> barrier_sleepers_{0};
};

}  // namespace quipu::cpu
