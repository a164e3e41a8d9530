// KvWatch: one reader of the stream of cache changes.
//
// It looks at the engine between two of its steps, tells what changed, waits, and looks again. At
// most one look is under way, so the engine thread never waits for a reader and nothing queues up:
// a reader that is slow gets fewer events, each of them up to date. Without readers nobody looks.
// THREADS: the server's thread; the maker of frames runs on the engine thread during a look.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/kv_frame.h"
#include "server/recent_requests.h"

namespace quipu {

class KvWatch : public std::enable_shared_from_this<KvWatch> {
 public:
  struct Context {
    const ServedModel& model;
    EngineThread& engine;
    const RecentRequests& recent;
    Caller caller;
    double rarer = 1;               // it looks so many times less often than one of a few may
    std::function<bool()> is_over;  // the server is shutting down
    std::function<void()> done;     // called once, when the reader has gone or the stream ended
  };
  // Lives until the client has gone or the server shuts down. OWNS: what the context names must
  // outlive it.
  static void start(Context context, std::shared_ptr<HttpReply> reply);

 private:
  KvWatch(Context context, std::shared_ptr<HttpReply> reply);

  void look();
  void tell(const KvFrame& frame);
  void look_later(std::chrono::milliseconds delay);
  void end();

  Context context_;
  std::shared_ptr<HttpReply> reply_;
  KvFrameMaker maker_;                      // the engine thread's while a look is under way
  std::vector<std::vector<KvCell>> cells_;  // that the reader has. SHAPE: [groups][cells]
  std::chrono::steady_clock::time_point next_tree_;
  Json last_tree_;
  int64_t last_request_ = 0;
  bool began_ = false, over_ = false;
};

// The same as one answer: what a stream begins with.
void send_kv_snapshot(const KvWatch::Context& context, const std::shared_ptr<HttpReply>& reply,
                      std::function<void(HttpResponse)> send);

}  // namespace quipu
