#include "app/engine_thread.h"

#include <algorithm>
#include <chrono>

namespace quipu {

namespace {

// Between two looks at a tier that still brings what every request waits for. A block of a small
// model takes a fast disk about 0.1 ms, and a step of a large model takes 50 ms.
constexpr std::chrono::milliseconds kTierPoll{1};
// What a token of output counts beside one of a prompt, between tenants: it costs a share of a step
// of its own.
constexpr int64_t kOutputTokenCharge = 2;

double seconds_between(int64_t begin_ns, int64_t end_ns) {
  return static_cast<double>(end_ns - begin_ns) * 1e-9;
}

}  // namespace

EngineThread::Running::Running(const LoadedModel& model, Pending&& pending)
    : task(model, pending.id, pending.ask.params),
      outbox(std::move(pending.ask.outbox)),
      tenant(std::move(pending.ask.tenant)),
      at_end(std::move(pending.ask.at_end)),
      received_ns(pending.received_ns) {}

EngineThread::EngineThread(LoadedModel& model, const EngineThreadConfig& config)
    : model_(model),
      config_(config),
      pins_(model.engine->scheduler().cache(), model.engine->scheduler().token_limit(), config.pins,
            model.clock) {
  QUIPU_CHECK(config.running_max > 0 && config.waiting_max >= 0 && config.inspections_max > 0,
              "limits of the engine thread must be positive");
  thread_ = std::thread([this] { loop(); });
}

EngineThread::~EngineThread() { stop(); }

// ---- any thread

EngineThread::Submitted EngineThread::submit(std::vector<GenerationAsk> asks) {
  Submitted result;
  {
    const std::lock_guard lock(mutex_);
    if (draining_ || stopping_) {
      result.outcome = Outcome::kStopping;
      return result;
    }
    const int count = static_cast<int>(asks.size());
    if (in_flight_ + count > config_.running_max + config_.waiting_max) {
      result.outcome = Outcome::kQueueFull;
      return result;
    }
    in_flight_ += count;
    const int64_t now_ns = model_.clock.now_ns();
    for (GenerationAsk& ask : asks) {
      QUIPU_CHECK(ask.outbox != nullptr, "a request needs an outbox");
      const RequestId id(next_id_++);
      result.ids.push_back(id);
      inbox_.push_back(Pending{.id = id, .received_ns = now_ns, .ask = std::move(ask)});
    }
  }
  wake_.notify_one();
  return result;
}

void EngineThread::cancel(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;  // everything is being cancelled
    inbox_.push_back(Cancel{id});
  }
  wake_.notify_one();
}

bool EngineThread::inspect(std::function<void(const EngineSnapshot&)> look) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || inspections_ >= config_.inspections_max) return false;
    ++inspections_;
    inbox_.push_back(std::move(look));
  }
  wake_.notify_one();
  return true;
}

void EngineThread::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

void EngineThread::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

int EngineThread::in_flight() const {
  const std::lock_guard lock(mutex_);
  return in_flight_;
}

// ---- engine thread

void EngineThread::loop() {
  std::vector<Message> messages;
  while (take_messages(messages)) {
    for (Message& message : messages)
      std::visit([this](auto& content) { handle(std::move(content)); }, message);
    messages.clear();
    end_late();
    pins_.expire();
    admit();
    waits_for_tier_ = false;
    if (!running_.empty()) step();
  }
  for (Message& message : messages)
    std::visit([this](auto& content) { handle(std::move(content)); }, message);
  cancel_all();
}

// Sleeps while there is nothing to do, and for a moment when only the tier has. False when the
// thread is to stop; `messages` then has the last ones, since nothing is accepted any more.
bool EngineThread::take_messages(std::vector<Message>& messages) {
  std::unique_lock lock(mutex_);
  const auto is_called = [this] { return !inbox_.empty() || stopping_; };
  if (running_.empty() && waiting_.empty()) {
    wake_.wait(lock, is_called);
  } else if (waits_for_tier_) {
    wake_.wait_for(lock, kTierPoll, is_called);
  }
  messages.swap(inbox_);
  return !stopping_;
}

void EngineThread::handle(Pending&& pending) {
  const RequestId id = pending.id;
  queue_.push(id, pending.ask.priority, pending.ask.tenant, model_.clock.now_ns(),
              pending.ask.deadline_ns);
  waiting_.emplace(id, std::move(pending));
}

void EngineThread::handle(const Cancel& cancel) {
  if (queue_.erase(cancel.id)) {
    const auto pending = waiting_.extract(cancel.id);
    end_unstarted(pending.mapped(), FinishReason::kCancelled);
  } else if (running_.contains(cancel.id)) {
    model_.engine->cancel(cancel.id);
    model_.engine->scheduler().take_cancelled(cancelled_);
    deliver(cancelled_);
    cancelled_.clear();
  }
}

void EngineThread::handle(const Inspection& look) {
  pins_.expire();  // nobody shall see one whose time is over
  EngineSnapshot snapshot{.engine = *model_.engine,
                          .pins = pins_,
                          .metrics = metrics_,
                          .running = {},
                          .waiting = static_cast<int>(waiting_.size()),
                          .waiting_of = {}};
  for (const auto& [id, pending] : waiting_) ++snapshot.waiting_of[pending.ask.tenant];
  for (const auto& [id, running] : running_) {
    snapshot.running.push_back({.id = id,
                                .place = running->place,
                                .output_tokens = running->output_tokens,
                                .max_tokens = running->task.params().max_tokens,
                                .tenant = running->tenant});
  }
  std::sort(snapshot.running.begin(), snapshot.running.end(),
            [](const auto& a, const auto& b) { return a.place < b.place; });
  for (const auto& sequence : model_.engine->scheduler().running()) {
    for (EngineSnapshot::Task& task : snapshot.running) {
      if (task.id != sequence->request.id) continue;
      task.prompt_tokens = sequence->num_prompt_tokens();
      task.computed_tokens = sequence->num_computed_tokens();
    }
  }
  look(snapshot);
  const std::lock_guard lock(mutex_);
  --inspections_;
}

// Hands waiting requests to the engine while it has places.
void EngineThread::admit() {
  while (static_cast<int>(running_.size()) < config_.running_max) {
    const std::optional<FairQueue::Next> next = queue_.pop(model_.clock.now_ns());
    if (!next.has_value()) return;
    Pending pending = std::move(waiting_.extract(next->id).mapped());
    const RequestId id = pending.id;
    std::vector<TokenId> prompt = std::move(pending.ask.prompt);
    const std::optional<int64_t> deadline_ns = pending.ask.deadline_ns;
    auto running = std::make_unique<Running>(model_, std::move(pending));
    running->place = free_place();
    running->started_ns = model_.clock.now_ns();
    const auto prompt_tokens = static_cast<int64_t>(prompt.size());
    Result<Request> request = running->task.make_request(std::move(prompt));
    Status status = request.status();
    if (status.ok()) {
      request->priority = next->priority;
      request->deadline_ns = deadline_ns;
      status = model_.engine->submit(std::move(*request));
    }
    if (!status.ok()) {
      end_refused(*running->outbox, std::move(status));
      continue;
    }
    queue_.charge(running->tenant, prompt_tokens);
    GenerationUpdate update;
    update.started = true;
    running->outbox->put(std::move(update));
    running_.emplace(id, std::move(running));
  }
}

int EngineThread::free_place() const {
  std::vector<bool> taken(static_cast<size_t>(config_.running_max), false);
  for (const auto& [id, running] : running_) taken[static_cast<size_t>(running->place)] = true;
  return static_cast<int>(std::find(taken.begin(), taken.end(), false) - taken.begin());
}

void EngineThread::step() {
  const int64_t begin_ns = model_.clock.now_ns();
  const std::span<const StepEvent> events = model_.engine->step();
  waits_for_tier_ = model_.engine->is_idle();
  if (!waits_for_tier_) {
    metrics_.step_time.observe(seconds_between(begin_ns, model_.clock.now_ns()));
    metrics_.batch_sequences.observe(static_cast<double>(running_.size()));
  }
  deliver(events);
  report_progress();
  // Outputs that a stop string ended: their room is free before the next step.
  std::vector<RequestId> done;
  for (const auto& [id, running] : running_) {
    if (running->task.wants_cancel()) done.push_back(id);
  }
  for (const RequestId id : done) handle(Cancel{id});
}

void EngineThread::deliver(std::span<const StepEvent> events) {
  const int64_t now_ns = model_.clock.now_ns();
  for (const StepEvent& event : events) {
    const auto found = running_.find(event.id);
    QUIPU_CHECK(found != running_.end(), "an event of request {}, which is not running",
                event.id.value());
    Running& running = *found->second;
    GenerationUpdate update;
    running.task.take(event, update);
    if (event.token.has_value()) {
      if (running.last_token_ns == 0) {
        metrics_.time_to_first_token.observe(seconds_between(running.received_ns, now_ns));
      } else {
        metrics_.time_between_tokens.observe(seconds_between(running.last_token_ns, now_ns));
      }
      running.last_token_ns = now_ns;
      ++running.output_tokens;
      queue_.charge(running.tenant, kOutputTokenCharge);
    }
    if (update.end.has_value()) {
      queue_.charge(running.tenant, -update.end->stats.cached_tokens);  // those cost nothing
      note_end(running, update.end->stats, update.end->finish);
      // Free before the caller hears of it, so that who waits for the end finds the place free.
      const std::unique_ptr<Running> last = std::move(found->second);
      running_.erase(found);
      const FinishReason finish = update.end->finish;
      if (last->at_end && finish != FinishReason::kCancelled && finish != FinishReason::kDeadline)
        last->at_end(pins_, update.end->stats);
      released(1);
      last->outbox->put(std::move(update));
    } else if (!update.empty()) {
      running.outbox->put(std::move(update));
    }
  }
}

void EngineThread::report_progress() {
  for (const auto& sequence : model_.engine->scheduler().running()) {
    const auto found = running_.find(sequence->request.id);
    if (found == running_.end()) continue;
    Running& running = *found->second;
    if (!running.task.params().report_progress || running.last_token_ns != 0) continue;
    const RequestStats& stats = sequence->stats;
    GenerationUpdate update;
    update.progress =
        PromptProgress{.total = stats.prompt_tokens,
                       .cached = stats.cached_tokens,
                       .processed = std::min(sequence->num_computed_tokens(), stats.prompt_tokens),
                       .elapsed_ms = elapsed_ms(running.started_ns, model_.clock.now_ns())};
    running.outbox->put(std::move(update));
  }
}

void EngineThread::note_end(const Running& running, const RequestStats& stats,
                            FinishReason finish) {
  const int64_t now_ns = model_.clock.now_ns();
  ++metrics_.finished[static_cast<size_t>(finish)];
  metrics_.late_while_waiting +=
      finish == FinishReason::kDeadline && !stats.started_ns.has_value() ? 1 : 0;
  metrics_.preemptions += static_cast<uint64_t>(stats.preemptions);
  metrics_.request_time.observe(seconds_between(running.received_ns, now_ns));
  metrics_.queue_time.observe(
      seconds_between(running.received_ns, stats.started_ns.value_or(now_ns)));
  metrics_.prompt_tokens.observe(static_cast<double>(stats.prompt_tokens));
  metrics_.generation_tokens.observe(static_cast<double>(stats.completion_tokens));
  metrics_.prompt_tokens_total += static_cast<uint64_t>(stats.prompt_tokens);
  metrics_.prompt_tokens_cached_total += static_cast<uint64_t>(stats.cached_tokens);
  metrics_.generation_tokens_total += static_cast<uint64_t>(stats.completion_tokens);
}

void EngineThread::end_refused(GenerationOutbox& outbox, Status status) {
  ++metrics_.refused;
  released(1);
  GenerationUpdate update;
  update.end = GenerationEnd{.status = std::move(status)};
  outbox.put(std::move(update));
}

// Ends those that wait here beyond their deadline; those in the engine it ends itself.
void EngineThread::end_late() {
  late_.clear();
  queue_.take_late(model_.clock.now_ns(), late_);
  for (const RequestId id : late_) {
    const auto pending = waiting_.extract(id);
    end_unstarted(pending.mapped(), FinishReason::kDeadline);
  }
}

void EngineThread::end_unstarted(const Pending& pending, FinishReason reason) {
  const int64_t now_ns = model_.clock.now_ns();
  ++metrics_.finished[static_cast<size_t>(reason)];
  metrics_.late_while_waiting += reason == FinishReason::kDeadline ? 1 : 0;
  metrics_.queue_time.observe(seconds_between(pending.received_ns, now_ns));
  metrics_.request_time.observe(seconds_between(pending.received_ns, now_ns));
  released(1);
  GenerationUpdate update;
  update.end = GenerationEnd{.finish = reason};
  update.end->stats.submitted_ns = pending.received_ns;
  update.end->stats.finished_ns = now_ns;
  update.end->stats.prompt_tokens = static_cast<int64_t>(pending.ask.prompt.size());
  pending.ask.outbox->put(std::move(update));
}

void EngineThread::released(int count) {
  const std::lock_guard lock(mutex_);
  in_flight_ -= count;
}

void EngineThread::cancel_all() {
  while (const std::optional<FairQueue::Next> next = queue_.pop(model_.clock.now_ns())) {
    const Pending pending = std::move(waiting_.extract(next->id).mapped());
    end_unstarted(pending, FinishReason::kCancelled);
  }
  std::vector<RequestId> ids;
  for (const auto& [id, running] : running_) ids.push_back(id);
  for (const RequestId id : ids) handle(Cancel{id});
  QUIPU_CHECK(running_.empty(), "{} requests have no end", running_.size());
}

}  // namespace quipu
