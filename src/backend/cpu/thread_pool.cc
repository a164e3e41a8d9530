#include "backend/cpu/thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

namespace quipu::cpu {

namespace {

// About 50 to 100 microseconds: longer than the gap between two operations of a step, shorter than
// anyone would notice on an idle machine.
constexpr int kSpins = 2000;

void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr,
          nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr,
          nullptr, 0);
}

// Returns the first value of `word` that is not `old`. The sleeper count lets writers skip the
// system call; both sides use sequentially consistent operations, so one of them sees the other.
uint32_t wait_while(std::atomic<uint32_t>& word, uint32_t old, std::atomic<int32_t>& sleepers,
                    int spins) {
  for (int i = 0; i < spins; ++i) {
    const uint32_t value = word.load(std::memory_order_acquire);
    if (value != old) return value;
    cpu_pause();
  }
  for (;;) {
    sleepers.fetch_add(1, std::memory_order_seq_cst);
    if (word.load(std::memory_order_seq_cst) == old) futex_wait(word, old);
    sleepers.fetch_sub(1, std::memory_order_seq_cst);
    const uint32_t value = word.load(std::memory_order_acquire);
    if (value != old) return value;
  }
}

void wake(std::atomic<uint32_t>& word, std::atomic<int32_t>& sleepers) {
  if (sleepers.load(std::memory_order_seq_cst) > 0) futex_wake_all(word);
}

void pin_this_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);  // only speed depends on it
}

}  // namespace

const std::vector<int>& usable_cpus() {
  static const std::vector<int> cpus = [] {
    std::vector<int> found;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(getpid(), sizeof(set), &set) == 0) {
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(static_cast<size_t>(cpu), &set)) found.push_back(cpu);
      }
    }
    if (found.empty()) found.push_back(0);
    return found;
  }();
  return cpus;
}

ThreadPool::ThreadPool(int threads, bool pin) : threads_(threads) {
  QUIPU_CHECK(threads >= 1 && threads <= kThreadsMax, "{} threads", threads);
  const auto& cpus = usable_cpus();
  const size_t count = static_cast<size_t>(threads);
  pin_ = pin && count == cpus.size();
  spin_count_ = count <= cpus.size() ? kSpins : 0;
  workers_.reserve(count - 1);
  for (int i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i, cpu = pin_ ? cpus[static_cast<size_t>(i)] : -1] {
      if (cpu >= 0) pin_this_thread(cpu);
      worker_loop(i);
    });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  wake(epoch_, epoch_sleepers_);
  for (std::thread& worker : workers_) worker.join();
  if (pinned_caller_ == std::this_thread::get_id()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : usable_cpus()) CPU_SET(static_cast<size_t>(cpu), &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
  }
}

void ThreadPool::pin_caller() {
  const std::thread::id caller = std::this_thread::get_id();
  if (!pin_ || pinned_caller_ == caller) return;
  pinned_caller_ = caller;
  pin_this_thread(usable_cpus()[0]);
}

void ThreadPool::run_erased(Function function, const void* context) {
  if (threads_ == 1) {
    function(context, 0, 1);
    return;
  }
  pin_caller();
  function_ = function;
  context_ = context;
  pending_.store(static_cast<uint32_t>(threads_ - 1), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  wake(epoch_, epoch_sleepers_);
  function(context, 0, threads_);
  uint32_t left = pending_.load(std::memory_order_acquire);
  while (left != 0) left = wait_while(pending_, left, pending_sleepers_, spin_count_);
}

void ThreadPool::worker_loop(int thread) {
  uint32_t seen = 0;
  for (;;) {
    seen = wait_while(epoch_, seen, epoch_sleepers_, spin_count_);
    if (stop_.load(std::memory_order_relaxed)) return;
    function_(context_, thread, threads_);
    pending_.fetch_sub(1, std::memory_order_seq_cst);
    wake(pending_, pending_sleepers_);
  }
}

void ThreadPool::barrier() {
  if (threads_ == 1) return;
  const uint32_t epoch = barrier_epoch_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(threads_)) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_epoch_.store(epoch + 1, std::memory_order_seq_cst);
    wake(barrier_epoch_, barrier_sleepers_);
    return;
  }
  wait_while(barrier_epoch_, epoch, barrier_sleepers_, spin_count_);
}

}  // namespace quipu::cpu
