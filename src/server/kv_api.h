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

 private:
  KvWatch::Context watch_context(const VisitPtr& visit);

  ApiContext& context_;
};

}  // namespace quipu
