#include "server/kv_watch.h"

#include <algorithm>

namespace quipu {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kInterval{200};
constexpr milliseconds kTreeInterval{1000};
constexpr milliseconds kBusyRetry{500};
// A look keeps the engine thread from its work: at most a hundredth of the time goes there.
constexpr double kLookShare = 0.01;
constexpr const char* kWatchPing = ": ping\n\n";

void add_named_event(std::string_view name, const Json& data, std::string& events) {
  events += fmt::format("event: {}\ndata: {}\n\n", name, dump(data));
}

// What does not change while the server runs.
void add_constants(const ServedModel& model, Json& shown) {
  shown["model"] = model.name();
  shown["token_limit"] = model.token_limit();
  shown["parallel"] = model.parallel();
  shown["version"] = QUIPU_VERSION;
  shown["block_tokens"] = model.model().engine->kv().spec().block_tokens;
}

}  // namespace

KvWatch::KvWatch(Context context, std::shared_ptr<HttpReply> reply)
    : context_(std::move(context)), reply_(std::move(reply)), maker_(context_.caller) {}

void KvWatch::start(Context context, std::shared_ptr<HttpReply> reply) {
  const std::shared_ptr<KvWatch> watch(new KvWatch(std::move(context), std::move(reply)));
  if (watch->reply_->closed()) return watch->end();
  // The reply keeps the watch alive until the client has gone.
  watch->reply_->on_gone([watch] { watch->end(); });
  watch->look();
}

void KvWatch::look() {
  if (over_) return;
  if (context_.is_over()) {
    if (began_) reply_->write("event: end\ndata: {}\n\n");
    reply_->on_gone(nullptr);
    if (began_) {
      reply_->end();
    } else {
      reply_->send(error_response(shutting_down()));
    }
    return end();
  }
  if (began_ && !reply_->writable()) return look_later(kInterval);
  const bool with_tree = std::chrono::steady_clock::now() >= next_tree_;
  const bool accepted = context_.engine.inspect(
      [self = shared_from_this(), with_tree](const EngineSnapshot& snapshot) {
        // Shared: std::function copies what it calls.
        auto frame = std::make_shared<KvFrame>(
            self->maker_.make(snapshot, self->context_.model.model().clock, with_tree));
        self->reply_->post([self, frame] { self->tell(*frame); });
      });
  if (!accepted) look_later(kBusyRetry);
}

void KvWatch::tell(const KvFrame& frame) {
  if (over_) return;
  const bool is_first = !began_;
  if (is_first) {
    began_ = true;
    reply_->begin_events({{"X-Accel-Buffering", "no"}}, kWatchPing);
    for (const KvFrame::Group& group : frame.groups) cells_.push_back(group.cells);
  }
  Json shown = frame_to_json(frame, context_.model, is_first ? nullptr : &cells_);
  if (is_first) add_constants(context_.model, shown);
  if (frame.has_tree) {
    next_tree_ = std::chrono::steady_clock::now() + kTreeInterval;
    if (!is_first && shown["tree"] == last_tree_) {
      shown.erase("tree");
    } else {
      last_tree_ = shown["tree"];
    }
  }
  shown["recent"] = context_.recent.since(context_.caller, last_request_);
  last_request_ = context_.recent.last_number();
  std::string events;
  add_named_event(is_first ? "snapshot" : "change", shown, events);
  reply_->write(events);
  const double pause_ms = frame.look_ms / kLookShare * context_.rarer;
  look_later(std::max(kInterval, milliseconds(static_cast<int64_t>(pause_ms))));
}

void KvWatch::look_later(milliseconds delay) {
  reply_->post_after(delay, [self = shared_from_this()] { self->look(); });
}

void KvWatch::end() {
  if (std::exchange(over_, true)) return;
  context_.done();
}

void send_kv_snapshot(const KvWatch::Context& context, const std::shared_ptr<HttpReply>& reply,
                      std::function<void(HttpResponse)> send) {
  auto maker = std::make_shared<KvFrameMaker>(context.caller);  // shared: see above
  const bool accepted =
      context.engine.inspect([context, reply, maker, send](const EngineSnapshot& snapshot) {
        auto frame =
            std::make_shared<KvFrame>(maker->make(snapshot, context.model.model().clock, true));
        reply->post([context, frame, send] {
          Json shown = frame_to_json(*frame, context.model, nullptr);
          add_constants(context.model, shown);
          shown["recent"] = context.recent.since(context.caller, 0);
          send(json_response(shown));
        });
      });
  if (accepted) return;
  send(error_response({.status = 503,
                       .message = "too many requests for the engine's state at once",
                       .type = "server_error",
                       .code = "overloaded",
                       .retry_after_s = 1}));
}

}  // namespace quipu
