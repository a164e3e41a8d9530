// CallLane: calls on the server's thread that may wait a moment while its sockets are served: what
// requests lead to, as opposed to what tells a request apart.
//
// The calls run in the order in which they came, for kSlice in each turn of the server's loop and
// at least one of them. Between two slices the loop looks at every socket that is ready, so that a
// thousand requests at once do not keep one waiting that is answered in a microsecond, nor do
// answers of that kind keep the thousand waiting.
// THREADS: add() from any; the calls run on the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>

namespace quipu {

class CallLane {
 public:
  // About what a turn of the loop takes for its sockets when many are busy.
  static constexpr std::chrono::microseconds kSlice{500};

  // OWNS: nothing; the loop must outlive this, and run.
  explicit CallLane(boost::asio::io_context& loop) : loop_(loop) {}
  CallLane(const CallLane&) = delete;
  CallLane& operator=(const CallLane&) = delete;

  void add(std::function<void()> call) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back(std::move(call));
      if (waiting_.size() > 1 || is_running_) return;  // a slice is coming
    }
    boost::asio::post(loop_, [this] { run_slice(); });
  }

 private:
  void run_slice() {
    const auto end = std::chrono::steady_clock::now() + kSlice;
    do {
      const std::function<void()> call = next();
      if (!call) return;
      call();
    } while (std::chrono::steady_clock::now() < end);
    boost::asio::post(loop_, [this] { run_slice(); });
  }

  // Empty when none waits; then the next add() begins anew.
  std::function<void()> next() {
    const std::lock_guard lock(mutex_);
    is_running_ = !waiting_.empty();
    if (!is_running_) return {};
    std::function<void()> call = std::move(waiting_.front());
    waiting_.pop_front();
    return call;
  }

  boost::asio::io_context& loop_;
  std::mutex mutex_;
  std::deque<std::function<void()>> waiting_;
  bool is_running_ = false;  // a slice is under way, or posted
};

}  // namespace quipu
