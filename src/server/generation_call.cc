#include "server/generation_call.h"

namespace quipu {

namespace {

constexpr const char* kPing = ": ping\n\n";
constexpr int kRetryAfterSeconds = 1;

}  // namespace

ApiError queue_full(const EngineThreadConfig& config) {
  return {.status = 429,
          .message = fmt::format("{} requests run and {} wait already; try again later",
                                 config.running_max, config.waiting_max),
          .type = "rate_limit_error",
          .code = "queue_full",
          .retry_after_s = kRetryAfterSeconds};
}

ApiError deadline_exceeded(const RequestStats& stats) {
  const double seconds = elapsed_ms(stats.submitted_ns, stats.finished_ns) / 1000;
  const std::string how_far =
      !stats.started_ns.has_value()
          ? "it had not begun"
          : fmt::format("{} of its output tokens were there", stats.completion_tokens);
  return {.status = 504,
          .message = fmt::format("the request's time was over after {:.3f} s: {}. What it computed "
                                 "of its prompt stays in the cache",
                                 seconds, how_far),
          .type = "timeout_error",
          .code = "deadline_exceeded"};
}

GenerationCall::GenerationCall(EngineThread& engine, std::shared_ptr<HttpReply> reply,
                               std::shared_ptr<const GenerationSpec> spec,
                               std::unique_ptr<ReplyFormat> format,
                               std::function<void(const Outcome&)> done)
    : engine_(engine),
      reply_(std::move(reply)),
      spec_(std::move(spec)),
      format_(std::move(format)),
      done_(std::move(done)) {}

void GenerationCall::start(EngineThread& engine, std::shared_ptr<HttpReply> reply,
                           std::shared_ptr<const GenerationSpec> spec,
                           std::unique_ptr<ReplyFormat> format,
                           std::function<void(const Outcome&)> done) {
  const std::shared_ptr<GenerationCall> call(new GenerationCall(
      engine, std::move(reply), std::move(spec), std::move(format), std::move(done)));
  call->submit();
}

void GenerationCall::submit() {
  if (reply_->closed()) return report(499, "the client left before it began");
  // The outboxes hold the call weakly: when the client left, the engine may still put a last
  // update.
  const auto wake = [reply = reply_, self = weak_from_this()] {
    reply->post([self] {
      if (const std::shared_ptr<GenerationCall> call = self.lock()) call->pump();
    });
  };
  std::vector<GenerationAsk> asks;
  for (size_t prompt = 0; prompt < spec_->prompts.size(); ++prompt) {
    for (int i = 0; i < spec_->choices; ++i) {
      choices_.push_back({.index = static_cast<int>(choices_.size()), .prompt = prompt});
      outboxes_.push_back(std::make_shared<GenerationOutbox>(wake));
      GenerationAsk ask{.prompt = spec_->prompts[prompt].tokens,
                        .params = spec_->params,
                        .priority = spec_->priority,
                        .tenant = spec_->tenant,
                        .deadline_ns = spec_->deadline_ns,
                        .at_end = {},
                        .outbox = outboxes_.back()};
      ask.params.sampling.seed += static_cast<uint64_t>(i);
      asks.push_back(std::move(ask));
    }
  }
  const int all = engine_.config().running_max + engine_.config().waiting_max;
  if (static_cast<int>(asks.size()) > all) {
    return refuse(bad_parameter("n", fmt::format("the request has {} choices; this server takes {} "
                                                 "at once",
                                                 asks.size(), all)));
  }
  EngineThread::Submitted submitted = engine_.submit(std::move(asks));
  switch (submitted.outcome) {
    case EngineThread::Outcome::kQueueFull: return refuse(queue_full(engine_.config()));
    case EngineThread::Outcome::kStopping: return refuse(shutting_down());
    case EngineThread::Outcome::kAccepted: break;
  }
  ids_ = std::move(submitted.ids);
  // The reply keeps the call alive until it is over.
  reply_->on_gone([self = shared_from_this()] { self->gone(); });
  reply_->on_writable([self = shared_from_this()] { self->pump(); });
}

// Takes what is new and tells it, as far as the connection can bear it.
void GenerationCall::pump() {
  if (over_ || (streaming_ && !reply_->writable())) return;
  for (size_t i = 0; i < choices_.size() && !over_; ++i) take(choices_[i], outboxes_[i]->take());
  if (over_) return;
  if (!events_.empty()) reply_->write(std::exchange(events_, {}));
  if (ended_ == static_cast<int>(choices_.size())) finish();
}

void GenerationCall::take(Choice& choice, GenerationUpdate&& update) {
  if (update.empty()) return;
  if (update.end.has_value()) {
    ++ended_;
    const GenerationEnd& end = *update.end;
    if (end.finish == FinishReason::kConstraint && !end.status.ok())
      return refuse(bad_parameter("", end.status.message(), "constraint_failed"));
    if (!end.status.ok()) return refuse(api_error_from(end.status));
    if (end.finish == FinishReason::kCancelled) return refuse(shutting_down());
    if (end.finish == FinishReason::kDeadline) {
      choice.all.end = update.end;  // for the log
      return refuse(deadline_exceeded(end.stats));
    }
  }
  if (!spec_->stream) return choice.all.append(std::move(update));
  if (!streaming_) begin_stream();
  format_->add_update(choice, update, events_);
  choice.tokens_sent += static_cast<int64_t>(update.token_ids.size());
  choice.text_sent += update.text.size();
  if (update.end.has_value()) choice.all.end = std::move(update.end);
}

void GenerationCall::begin_stream() {
  streaming_ = true;
  reply_->begin_events({}, kPing);
}

// Answers with an error: as the whole answer, or as the last event of a stream.
void GenerationCall::refuse(const ApiError& error) {
  cancel_all();
  report(error.status, error.code.value_or("error"));
  const std::shared_ptr<GenerationCall> self = shared_from_this();
  if (!streaming_) {
    HttpResponse response = error_response(error);
    response.body = dump(format_->error(error));
    return reply_->send(std::move(response));
  }
  format_->add_error(error, events_);
  reply_->write(std::exchange(events_, {}));
  reply_->end();
}

void GenerationCall::finish() {
  report(200, std::string(finish_reason_name(choices_.front().all.end->finish)));
  const std::shared_ptr<GenerationCall> self = shared_from_this();
  if (!streaming_) return reply_->send(json_response(format_->whole(choices_)));
  format_->add_end(choices_, events_);
  reply_->write(std::exchange(events_, {}));
  reply_->end();
}

void GenerationCall::gone() {
  if (over_) return;
  cancel_all();
  report(499, "the client left");
}

void GenerationCall::cancel_all() {
  for (const RequestId id : ids_) engine_.cancel(id);
}

void GenerationCall::report(int status, std::string finish) {
  over_ = true;
  Outcome outcome{.status = status, .finish = std::move(finish), .stats = {}};
  for (const Choice& choice : choices_) {
    if (!choice.all.end.has_value()) continue;
    if (outcome.stats.finished_ns == 0) {
      outcome.stats = choice.all.end->stats;
      continue;
    }
    outcome.stats.prompt_tokens += choice.all.end->stats.prompt_tokens;
    outcome.stats.cached_tokens += choice.all.end->stats.cached_tokens;
    outcome.stats.completion_tokens += choice.all.end->stats.completion_tokens;
  }
  done_(outcome);
}

}  // namespace quipu
