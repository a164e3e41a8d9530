// KvApi: the routes under /v1/kv: what the cache holds, and what may be done with it by hand.
//
// A tenant sees and moves what lies under its own salts; an operator sees all.
// THREADS: the server's thread.
#pragma once

#include "server/api_context.h"
#include "server/kv_watch.h"

namespace quipu {

class KvApi {
 public:
  // OWNS: nothing; the context must outlive it.
  explicit KvApi(ApiContext& context) : context_(context) {}

  void summary(const VisitPtr& visit);   // GET /v1/kv
  void snapshot(const VisitPtr& visit);  // GET /v1/kv/snapshot
  void events(const VisitPtr& visit);    // GET /v1/kv/events

  // kv_sessions.cc: prefixes that are kept because somebody asked for it.
  void sessions(const VisitPtr& visit);  // GET /v1/kv/sessions
  void pin(const VisitPtr& visit);       // POST /v1/kv/pin
  void unpin(const VisitPtr& visit);     // POST /v1/kv/unpin
  void fork(const VisitPtr& visit);      // POST /v1/kv/fork
  void explain(const VisitPtr& visit);   // POST /v1/kv/explain

 private:
  struct Wish;
  using WishPtr = std::shared_ptr<Wish>;  // shared: with the work queue and the engine thread
  void read_wish(const VisitPtr& visit, std::function<ApiResult<WishPtr>(const Json& body)> read,
                 std::function<void(const WishPtr&)> then);
  ApiResult<WishPtr> read_pin(const Visit& visit, const Json& body) const;
  void fork_at(const VisitPtr& visit, const WishPtr& wish);
  void keep(const VisitPtr& visit, const WishPtr& wish);
  Json session_to_json(const KvPin& pin, const Caller& caller, int64_t now_ns) const;

  KvWatch::Context watch_context(const VisitPtr& visit);

  ApiContext& context_;
};

}  // namespace quipu
