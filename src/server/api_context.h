// ApiContext: what all groups of routes share: the model and the engine, where slow work goes, how
// a request is answered and logged. Visit: a request on its way.
// THREADS: the server's thread, but for what answer_with() and look_at_engine() run elsewhere.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "app/engine_thread.h"
#include "server/access.h"
#include "server/http.h"
#include "server/recent_requests.h"
#include "server/served_model.h"
#include "server/watch_places.h"
#include "server/work_queue.h"

namespace quipu {

// Shared: with the work queue, the engine thread and the reply.
struct Visit {
  HttpRequest request;
  std::shared_ptr<HttpReply> reply;
  Caller caller;
  std::chrono::steady_clock::time_point begin;
  int64_t arrived_ns = 0;  // UNITS: ns of the engine's clock
};
using VisitPtr = std::shared_ptr<Visit>;

// In the form of the API that the path belongs to.
HttpResponse error_at(const std::string& path, const ApiError& error);
// 503: more want to look at the engine than may at once.
ApiError engine_is_busy();

// Libraries throw; nothing above them should see it.
template <typename T>
ApiResult<T> guarded(const std::function<ApiResult<T>()>& make) {
  try {
    return make();
  } catch (const Json::exception&) {
    return bad_parameter("", "a value has the wrong type", "invalid_type");
  } catch (const std::exception&) {
    return api_error_from(make_error(ErrorCode::kInternal, "an exception in a request handler"));
  }
}

class ApiContext {
 public:
  // OWNS: model and engine must outlive it.
  ApiContext(const ServedModel& served_model, EngineThread& engine_thread, AccessLog access_log,
             int tenants, int work_threads)
      : model(served_model),
        engine(engine_thread),
        log_file(std::move(access_log)),
        watchers(tenants),
        work(work_threads) {}

  // When a request must have ended: the earliest that its body (`timeout_ms`), its header
  // X-Request-Timeout and the server ask for. ERRORS: 400 for a header that is no number of
  // seconds.
  ApiResult<std::optional<int64_t>> deadline_of(const Visit& visit,
                                                std::optional<int64_t> timeout_ms) const;

  void log(const Visit& visit, Json fields);
  void send(const Visit& visit, HttpResponse response, const std::string& code = {});
  void send_error(const Visit& visit, const ApiError& error);

  // Runs `make` on the work queue with the body and sends what it gives.
  void answer_with(const VisitPtr& visit, std::function<ApiResult<Json>(const Json& body)> make);
  // Runs `look` between two steps of the engine and sends what it gives.
  void look_at_engine(const VisitPtr& visit,
                      std::function<HttpResponse(const EngineSnapshot&)> look);

  const ServedModel& model;
  EngineThread& engine;
  AccessLog log_file;
  RecentRequests recent;
  WatchPlaces watchers;  // of the cache
  bool is_draining = false;
  std::chrono::milliseconds request_timeout{0};  // of every request; 0: none
  WorkQueue work;                                // last: its threads use the rest
};

}  // namespace quipu
