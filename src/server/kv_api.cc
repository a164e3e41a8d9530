#include "server/kv_api.h"

namespace quipu {

namespace {

// Of its own blocks for a tenant, with the counters since the start for an operator.
Json summary_to_json(const EngineSnapshot& snapshot, const Caller& caller, const Clock& clock) {
  const KvStorage& storage = snapshot.engine.kv();
  const KvFrame frame = KvFrameMaker(caller).make(snapshot, clock, /*with_tree=*/false);
  const int running = caller.is_operator() ? snapshot.engine.scheduler().num_running()
                                           : static_cast<int>(frame.running.size());
  Json groups = Json::array();
  for (size_t i = 0; i < frame.groups.size(); ++i) {
    const KvFrame::Group& group = frame.groups[i];
    Json blocks = {{"total", group.total}};
    if (caller.is_operator()) blocks["free"] = group.states.free;
    blocks["open"] = group.states.open;
    blocks["closed"] = group.states.closed;
    blocks["cached"] = group.states.cached;
    if (caller.is_operator()) blocks["in_flight"] = group.states.in_flight;
    groups.push_back({{"layers", group.layers},
                      {"block_bytes", group.block_bytes},
                      {"bytes_per_token", storage.spec().groups[i].bytes_per_token()},
                      {"window", group.window == 0 ? Json(nullptr) : Json(group.window)},
                      {"blocks", std::move(blocks)}});
  }
  Json shown = {{"scope", caller.is_operator() ? "all" : "tenant"},
                {"bytes", storage.bytes()},
                {"block_tokens", storage.spec().block_tokens},
                {"bytes_per_token", storage.spec().bytes_per_token()},
                {"token_limit", snapshot.engine.scheduler().token_limit()},
                {"groups", std::move(groups)},
                {"requests", {{"running", running}, {"waiting", frame.waiting}}}};
  if (!caller.is_operator()) return shown;
  const KvCounters& counters = frame.statistics.cache;
  shown["counters"] = {{"lookups", counters.lookups},
                       {"lookups_hit", counters.lookups_hit},
                       {"tokens_looked_up", counters.tokens_looked_up},
                       {"tokens_reused", counters.tokens_reused},
                       {"blocks_shared", counters.blocks_shared},
                       {"blocks_copied", counters.blocks_copied},
                       {"blocks_published", counters.blocks_published},
                       {"blocks_folded", counters.blocks_folded},
                       {"blocks_evicted", counters.blocks_evicted},
                       {"window_blocks_left", counters.window_blocks_left}};
  return shown;
}

}  // namespace

void KvApi::summary(const VisitPtr& visit) {
  context_.look_at_engine(visit, [this, visit](const EngineSnapshot& snapshot) {
    return json_response(summary_to_json(snapshot, visit->caller, context_.model.model().clock));
  });
}

KvWatch::Context KvApi::watch_context(const VisitPtr& visit) {
  return {.model = context_.model,
          .engine = context_.engine,
          .recent = context_.recent,
          .caller = visit->caller,
          .rarer = context_.watchers.rarer(),
          .is_over = [this] { return context_.is_draining; },
          .done = [] {}};
}

void KvApi::snapshot(const VisitPtr& visit) {
  send_kv_snapshot(watch_context(visit), visit->reply, [this, visit](HttpResponse response) {
    context_.send(*visit, std::move(response));
  });
}

void KvApi::events(const VisitPtr& visit) {
  if (!context_.watchers.enter(visit->caller.tenant)) {
    ApiError error{.status = 503,
                   .message = fmt::format("{} clients watch the cache already, which is as many as "
                                          "a tenant of this server may have",
                                          context_.watchers.share()),
                   .type = "server_error",
                   .code = "overloaded",
                   .retry_after_s = 10};
    return context_.send_error(*visit, error);
  }
  KvWatch::Context context = watch_context(visit);
  context.done = [this, visit] {
    context_.watchers.leave(visit->caller.tenant);
    context_.log(*visit, {{"status", 200}});
  };
  KvWatch::start(std::move(context), visit->reply);
}

}  // namespace quipu
