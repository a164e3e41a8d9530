// EngineThread: owns the stepping of one model's engine, for many callers on other threads.
//
//   any thread:     submit / cancel / inspect  ->  bounded inbox
//   engine thread:  [ take inbox -> admit -> step -> outboxes ] again and again; sleeps when idle
//
// Requests that find no place in the engine wait here (fair_queue.h says who is next) and can be
// cancelled. Everything is bounded: requests in flight by running_max + waiting_max,
// inspections by inspections_max, an outbox by its request's output.
//
// Invariants:
//   1. every request that submit() accepted gets exactly one update with an end, also when it is
//      cancelled, late, refused by the engine, or alive when the thread stops;
//   2. cancel() and deadlines take effect before the next step begins;
//   3. nothing but this thread touches the engine between start and stop.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "app/assemble.h"
#include "app/fair_queue.h"
#include "app/generation_outbox.h"
#include "app/generation_task.h"
#include "app/serving_metrics.h"
#include "kv/kv_pins.h"

namespace quipu {

struct EngineThreadConfig {
  int running_max = 16;   // given to the engine at once
  int waiting_max = 256;  // more may wait here
  int inspections_max = 64;
  KvPinLimits pins;
};

struct GenerationAsk {
  std::vector<TokenId> prompt;
  GenerationParams params;
  int priority = 0;    // lower ones get a free place first
  std::string tenant;  // who asks: tenants take turns
  std::optional<int64_t> deadline_ns;  // Request::deadline_ns, and for its wait here too
  // Called on the engine thread once the request has ended with all of its output and let go of its
  // blocks, before the next step and before the outbox has the end. May be empty.
  std::function<void(KvPins&, const RequestStats&)> at_end;
  std::shared_ptr<GenerationOutbox>
      outbox;  // shared: caller and engine thread end at their own time
};

// What inspect() shows, between two steps.
struct EngineSnapshot {
  struct Task {
    RequestId id;
    int place = 0;  // 0 to running_max - 1, the same for the whole run
    int64_t prompt_tokens = 0, computed_tokens = 0, output_tokens = 0;
    int64_t max_tokens = 0;
    std::string tenant;
  };
  const Engine& engine;
  KvPins& pins;  // the one thing that a look may change
  const ServingMetrics& metrics;
  std::vector<Task> running;  // in the engine, by place
  int waiting = 0;            // without a place
  std::map<std::string, int> waiting_of;  // the same by tenant
};

class EngineThread {
 public:
  // OWNS: nothing given; the model must outlive this. Starts the thread.
  EngineThread(LoadedModel& model, const EngineThreadConfig& config);
  ~EngineThread();  // stop()
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  const EngineThreadConfig& config() const { return config_; }

  enum class Outcome { kAccepted, kQueueFull, kStopping };
  struct Submitted {
    Outcome outcome = Outcome::kAccepted;
    std::vector<RequestId> ids;  // SHAPE: as asks when accepted, else empty
  };
  // All of them, or none. Whether the engine takes them (a prompt that fits, parameters in range)
  // comes through the outboxes. THREADS: any.
  Submitted submit(std::vector<GenerationAsk> asks);

  // Ends a request early; its outbox gets its end. Nothing happens when it has ended already.
  // THREADS: any.
  void cancel(RequestId id);

  // Calls `look` on the engine thread between two steps. False when too many wait for that already,
  // or the thread stopped; `look` is then never called. THREADS: any.
  bool inspect(std::function<void(const EngineSnapshot&)> look);

  // The most tokens that a tenant without pins can pin. UNITS: tokens. THREADS: any.
  int64_t pin_tokens_max() const { return pins_.tokens_max(); }

  // From now on submit() answers kStopping; what was accepted goes on. THREADS: any.
  void drain();

  // Cancels everything, gives every request its end, and joins the thread. THREADS: one caller, not
  // the engine thread.
  void stop();

  // Accepted and not ended. THREADS: any.
  int in_flight() const;

 private:
  struct Pending {
    RequestId id;
    int64_t received_ns = 0;
    GenerationAsk ask;
  };
  struct Cancel {
    RequestId id;
  };
  using Inspection = std::function<void(const EngineSnapshot&)>;
  using Message = std::variant<Pending, Cancel, Inspection>;

  struct Running {
    Running(const LoadedModel& model, Pending&& pending);

    GenerationTask task;
    std::shared_ptr<GenerationOutbox> outbox;
    std::string tenant;
    std::function<void(KvPins&, const RequestStats&)> at_end;
    int place = 0;
    int64_t received_ns = 0;
    int64_t started_ns = 0;     // given to the engine
    int64_t last_token_ns = 0;  // 0: none yet
    int64_t output_tokens = 0;
  };

  void loop();
  bool take_messages(std::vector<Message>& messages);
  void handle(Pending&& pending);
  void handle(const Cancel& cancel);
  void handle(const Inspection& look);
  void admit();
  void step();
  void deliver(std::span<const StepEvent> events);
  void report_progress();
  void end_refused(GenerationOutbox& outbox, Status status);
  void end_unstarted(const Pending& pending, FinishReason reason);
  void end_late();
  void note_end(const Running& running, const RequestStats& stats, FinishReason finish);
  void released(int count);
  int free_place() const;
  void cancel_all();

  LoadedModel& model_;
  const EngineThreadConfig config_;

  // Shared with callers.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Message> inbox_;
  int in_flight_ = 0;
  int inspections_ = 0;
  int64_t next_id_ = 1;
  bool draining_ = false;
  bool stopping_ = false;

  // The engine thread's own.
  FairQueue queue_;  // of those in waiting_
  std::unordered_map<RequestId, Pending> waiting_;
  std::unordered_map<RequestId, std::unique_ptr<Running>> running_;
  std::vector<StepEvent> cancelled_;
  std::vector<RequestId> late_;
  KvPins pins_;
  bool waits_for_tier_ = false;  // the last step computed nothing
  ServingMetrics metrics_;

  std::thread thread_;  // last: everything else is there when it starts
};

}  // namespace quipu
