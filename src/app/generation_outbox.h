// GenerationOutbox: where the engine thread leaves what is new about one request, and where the
// request's owner takes it. Updates that nobody took yet are joined, so the box is bounded by the
// request's own output however slow the reader is, and the engine never waits for anybody.
//
// Invariants:
//   1. exactly one update in the life of an outbox has an end, and it is the last;
//   2. `wake` is called once per put() into an empty box, on the engine thread, without a lock
//   held.
// THREADS: thread-safe.
#pragma once

#include <functional>
#include <mutex>
#include <utility>

#include "app/generation_task.h"

namespace quipu {

class GenerationOutbox {
 public:
  explicit GenerationOutbox(std::function<void()> wake) : wake_(std::move(wake)) {}
  GenerationOutbox(const GenerationOutbox&) = delete;
  GenerationOutbox& operator=(const GenerationOutbox&) = delete;

  // Engine side. REQUIRES: no end was put before.
  void put(GenerationUpdate&& update) {
    {
      const std::lock_guard lock(mutex_);
      QUIPU_CHECK(!ended_, "an update after the end");
      ended_ = update.end.has_value();
      const bool was_empty = pending_.empty();
      pending_.append(std::move(update));
      if (!was_empty) return;
    }
    wake_();
  }

  // Everything since the last take(); may be empty.
  GenerationUpdate take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(pending_, {});
  }

 private:
  const std::function<void()> wake_;
  std::mutex mutex_;
  GenerationUpdate pending_;
  bool ended_ = false;
};

}  // namespace quipu
