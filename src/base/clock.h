// Clock: time as an argument, so that tests and simulations own it.
#pragma once

#include <chrono>
#include <cstdint>

namespace quipu {

class Clock {
 public:
  virtual ~Clock() = default;
  // UNITS: nanoseconds since an arbitrary start; never goes back.
  virtual int64_t now_ns() const = 0;
};

class SteadyClock : public Clock {
 public:
  int64_t now_ns() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

class FakeClock : public Clock {
 public:
  int64_t now_ns() const override { return now_ns_; }
  void advance_ns(int64_t delta_ns) { now_ns_ += delta_ns; }

 private:
  int64_t now_ns_ = 0;
};

// Milliseconds between two readings of now_ns().
inline double elapsed_ms(int64_t begin_ns, int64_t end_ns) {
  return static_cast<double>(end_ns - begin_ns) * 1e-6;
}

}  // namespace quipu
