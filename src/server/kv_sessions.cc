// Sessions: prefixes that the cache keeps because somebody asked for it (kv/kv_pins.h), by name.
#include <algorithm>
#include <random>

#include "server/generation_call.h"
#include "server/kv_api.h"

namespace quipu {

namespace {

constexpr size_t kLabelBytesMax = 200;
constexpr size_t kTextTokensMax = 48;
constexpr double kTtlSecondsMax = 365.0 * 86'400;

// Tells nothing of how many there are.
std::string new_session_name() {
  std::random_device device;
  return fmt::format("kvs-{:08x}{:08x}", device(), device());
}

ApiError no_such_session() {
  ApiError error = bad_parameter("session", "there is no session of this name; it may have ended",
                                 "session_not_found");
  error.status = 404;
  return error;
}

ApiError refusal_of(KvPins::Outcome outcome) {
  const char* why = outcome == KvPins::Outcome::kNotCached
                        ? "the cache did not keep all of it; see --kv-cache"
                    : outcome == KvPins::Outcome::kTooMany
                        ? "there are as many sessions already as one tenant may have"
                        : "there is no room left in what this tenant may pin";
  ApiError error =
      bad_parameter("", fmt::format("{}; end others with /v1/kv/unpin", why),
                    outcome == KvPins::Outcome::kNotCached ? "not_cached" : "pin_budget_exceeded");
  error.status = 409;
  return error;
}

// What a body asks for as a prompt: {"messages"} as chat completions take them, or {"prompt"} as
// text completions do.
ApiResult<GenerationSpec> read_prompt_of(const Json& body, const ServedModel& model,
                                         const std::string& tenant, bool opens_reply) {
  if (body.contains("messages") == body.contains("prompt")) {
    return bad_parameter("messages", "give either 'messages' or 'prompt'",
                         "missing_required_parameter");
  }
  Json whole = body;
  if (!whole.contains("add_generation_prompt")) whole["add_generation_prompt"] = opens_reply;
  ApiResult<GenerationSpec> spec = body.contains("messages")
                                       ? read_chat_request(whole, model, tenant)
                                       : read_completion_request(whole, model, tenant);
  if (const auto* read = std::get_if<GenerationSpec>(&spec);
      read != nullptr && read->prompts.size() != 1)
    return bad_parameter("prompt", "'prompt' has several prompts; expected one");
  return spec;
}

int64_t common_tokens(std::span<const TokenId> a, std::span<const TokenId> b) {
  const auto limit = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  return std::mismatch(a.begin(), a.begin() + limit, b.begin()).first - a.begin();
}

}  // namespace

// What a request wants of a session, and what came of it.
struct KvApi::Wish {
  std::string session;  // that it names
  KvPin pin;            // to be made
  std::optional<double> ttl_s;
  std::optional<int64_t> at_tokens;
  int priority = 0;
  std::optional<int64_t> deadline_ns;
  // Written on the engine thread.
  std::optional<KvPins::Outcome> outcome;
  int64_t shared_tokens = 0;  // with the session it was forked from
  int64_t cached_tokens = 0;
  Json answer;
};

// Reads the body on the work queue, answers if that fails, and goes on on the server's thread.
void KvApi::read_wish(const VisitPtr& visit,
                      std::function<ApiResult<WishPtr>(const Json& body)> read,
                      std::function<void(const WishPtr&)> then) {
  context_.work.add([this, visit, read = std::move(read), then = std::move(then)] {
    ApiResult<WishPtr> wish = guarded<WishPtr>([&]() -> ApiResult<WishPtr> {
      ApiResult<Json> body = parse_json_object(visit->request.body);
      if (auto* error = std::get_if<ApiError>(&body)) return std::move(*error);
      return read(std::get<Json>(body));
    });
    visit->request.body = {};
    visit->reply->post([this, visit, wish = std::move(wish), then] {
      if (const auto* error = std::get_if<ApiError>(&wish))
        return context_.send_error(*visit, *error);
      then(std::get<WishPtr>(wish));
    });
  });
}

// A prefix to keep, its label and how long.
ApiResult<KvApi::WishPtr> KvApi::read_pin(const Visit& visit, const Json& body) const {
  auto wish = std::make_shared<Wish>();
  Fields fields(body);
  wish->pin.label = fields.text("label").value_or("");
  wish->ttl_s = fields.number("ttl_s", 0.001, kTtlSecondsMax);
  if (wish->pin.label.size() > kLabelBytesMax) {
    fields.fail(bad_parameter("label", fmt::format("'label' has {} bytes; at most {}",
                                                   wish->pin.label.size(), kLabelBytesMax)));
  }
  if (fields.error().has_value()) return *fields.error();
  wish->pin.name = new_session_name();
  wish->pin.owner = visit.caller.tenant;
  if (!body.contains("messages") && !body.contains("prompt") && body.contains("session"))
    return wish;  // of another session
  ApiResult<GenerationSpec> read =
      read_prompt_of(body, context_.model, visit.caller.tenant, /*opens_reply=*/false);
  if (auto* error = std::get_if<ApiError>(&read)) return std::move(*error);
  GenerationSpec& spec = std::get<GenerationSpec>(read);
  ApiResult<std::optional<int64_t>> deadline = context_.deadline_of(visit, spec.timeout_ms);
  if (auto* error = std::get_if<ApiError>(&deadline)) return std::move(*error);
  wish->deadline_ns = std::get<std::optional<int64_t>>(deadline);
  wish->priority = spec.priority;
  wish->pin.salt = spec.params.cache_salt;
  wish->pin.tokens = std::move(spec.prompts.front().tokens);
  const auto tokens = static_cast<int64_t>(wish->pin.tokens.size());
  if (const int64_t most = context_.engine.pin_tokens_max(); tokens > most) {
    return bad_parameter(
        body.contains("messages") ? "messages" : "prompt",
        fmt::format("{} tokens are more than the {} that a tenant may pin here, beside which a "
                    "request of full length must fit; --kv-memory and --kv-pin-share set that",
                    tokens, most),
        "pin_too_large");
  }
  return wish;
}

Json KvApi::session_to_json(const KvPin& pin, const Caller& caller, int64_t now_ns) const {
  const auto shown_tokens =
      static_cast<std::ptrdiff_t>(std::min(pin.tokens.size(), kTextTokensMax));
  const std::vector<TokenId> first(pin.tokens.begin(), pin.tokens.begin() + shown_tokens);
  Json shown = {{"id", pin.name},
                {"object", "kv.session"},
                {"label", pin.label},
                {"parent", pin.parent.empty() ? Json(nullptr) : Json(pin.parent)},
                {"tokens", pin.tokens.size()},
                {"age_s", std::max(0.0, elapsed_ms(pin.created_ns, now_ns) / 1000)},
                {"expires_in_s", nullptr},
                {"text", context_.model.tokenizer().decode(first, {.skip_special = false})}};
  if (pin.expires_ns.has_value())
    shown["expires_in_s"] = elapsed_ms(now_ns, *pin.expires_ns) / 1000;
  if (caller.is_operator() && !pin.owner.empty()) shown["tenant"] = tenant_label(pin.owner);
  return shown;
}

void KvApi::sessions(const VisitPtr& visit) {
  context_.look_at_engine(visit, [this, visit](const EngineSnapshot& snapshot) {
    const Caller& caller = visit->caller;
    const Clock& clock = context_.model.model().clock;
    Json list = Json::array();
    for (const KvPin* pin : snapshot.pins.list(caller.is_operator() ? "" : caller.tenant))
      list.push_back(session_to_json(*pin, caller, clock.now_ns()));
    Json budget = Json::array();
    for (int group = 0; group < snapshot.engine.scheduler().cache().num_groups(); ++group) {
      budget.push_back({{"blocks", snapshot.pins.owner_budget(group)},
                        {"held", snapshot.pins.held_blocks_of(caller.tenant, group)}});
    }
    // What was said and is still there, pinned or not: the ends of the tree's branches.
    const KvFrame frame = KvFrameMaker(caller).make(snapshot, clock, /*with_tree=*/true);
    std::vector<bool> goes_on(frame.tree.size(), false);
    for (const KvRunView& run : frame.tree) {
      if (run.parent >= 0) goes_on[static_cast<size_t>(run.parent)] = true;
    }
    Json conversations = Json::array();
    for (size_t i = 0; i < frame.tree.size(); ++i) {
      const KvRunView& run = frame.tree[i];
      if (goes_on[i] || run.hidden_children > 0) continue;
      size_t first = i;
      while (frame.tree[first].parent >= 0) first = static_cast<size_t>(frame.tree[first].parent);
      const std::vector<TokenId>& tokens = frame.tree[first].first_tokens;
      conversations.push_back(
          {{"tokens", run.position + run.tokens},
           {"readers", run.holders},
           {"hits", run.hits},
           {"pinned", run.pins > 0},
           {"idle_s", elapsed_ms(run.last_use_ns, clock.now_ns()) / 1000},
           {"owner", frame.owners[static_cast<size_t>(run.owner)].label},
           {"text", context_.model.tokenizer().decode(tokens, {.skip_special = false})}});
    }
    return json_response({{"object", "list"},
                          {"data", std::move(list)},
                          {"budget", std::move(budget)},
                          {"tokens_max", snapshot.pins.tokens_max()},
                          {"conversations", std::move(conversations)}});
  });
}

void KvApi::pin(const VisitPtr& visit) {
  read_wish(
      visit, [this, visit](const Json& body) { return read_pin(*visit, body); },
      [this, visit](const WishPtr& wish) {
        if (wish->pin.tokens.empty())
          return context_.send_error(*visit,
                                     bad_parameter("messages", "give either 'messages' or 'prompt'",
                                                   "missing_required_parameter"));
        keep(visit, wish);
      });
}

void KvApi::unpin(const VisitPtr& visit) {
  read_wish(
      visit,
      [](const Json& body) -> ApiResult<WishPtr> {
        auto wish = std::make_shared<Wish>();
        Fields fields(body);
        const std::optional<std::string> session = fields.text("session");
        if (fields.error().has_value()) return *fields.error();
        if (!session.has_value())
          return bad_parameter("session", "'session' is missing", "missing_required_parameter");
        wish->session = *session;
        return wish;
      },
      [this, visit](const WishPtr& wish) {
        context_.look_at_engine(visit, [visit, wish](const EngineSnapshot& snapshot) {
          const std::string& owner = visit->caller.is_operator() ? "" : visit->caller.tenant;
          if (!snapshot.pins.unpin(owner, wish->session)) return error_response(no_such_session());
          return json_response(
              {{"id", wish->session}, {"object", "kv.session"}, {"unpinned", true}});
        });
      });
}

void KvApi::fork(const VisitPtr& visit) {
  read_wish(
      visit,
      [this, visit](const Json& body) -> ApiResult<WishPtr> {
        ApiResult<WishPtr> read = read_pin(*visit, body);
        if (std::holds_alternative<ApiError>(read)) return read;
        const WishPtr& wish = std::get<WishPtr>(read);
        Fields fields(body);
        wish->session = fields.text("session").value_or("");
        wish->at_tokens = fields.integer("at_tokens", 1, INT32_MAX);
        if (fields.error().has_value()) return *fields.error();
        if (wish->session.empty())
          return bad_parameter("session", "'session' is missing", "missing_required_parameter");
        if (wish->at_tokens.has_value() && !wish->pin.tokens.empty())
          return bad_parameter("at_tokens",
                               "'at_tokens' cuts the session itself; it does not go "
                               "with 'messages' or 'prompt'");
        return read;
      },
      [this, visit](const WishPtr& wish) { fork_at(visit, wish); });
}

// Forks a session where it is cut, or finds it and then computes where the fork goes on.
void KvApi::fork_at(const VisitPtr& visit, const WishPtr& wish) {
  const bool accepted =
      context_.engine.inspect([this, visit, wish](const EngineSnapshot& snapshot) {
        const Caller& caller = visit->caller;
        const int64_t now_ns = context_.model.model().clock.now_ns();
        // A tenant's pins only: a fork is the caller's own.
        const KvPin* parent = snapshot.pins.find(caller.tenant, wish->session);
        std::optional<ApiError> error;
        bool goes_on = false;
        if (parent == nullptr || parent->owner != caller.tenant) {
          error = no_such_session();
        } else if (!wish->pin.tokens.empty()) {
          wish->pin.salt = parent->salt;
          wish->pin.parent = parent->name;
          wish->shared_tokens = common_tokens(parent->tokens, wish->pin.tokens);
          goes_on = true;
        } else {
          const auto tokens = static_cast<int64_t>(parent->tokens.size());
          const int64_t at = wish->at_tokens.value_or(tokens);
          if (at > tokens) {
            error = bad_parameter("at_tokens",
                                  fmt::format("'at_tokens' is {}; the session has {}", at, tokens));
          } else {
            KvPin pin = wish->pin;
            pin.salt = parent->salt;
            pin.parent = parent->name;
            pin.tokens.assign(parent->tokens.begin(), parent->tokens.begin() + at);
            if (wish->ttl_s.has_value())
              pin.expires_ns = now_ns + static_cast<int64_t>(*wish->ttl_s * 1e9);
            const KvPins::Outcome outcome = snapshot.pins.pin(std::move(pin));
            if (outcome == KvPins::Outcome::kPinned) {
              wish->answer = session_to_json(*snapshot.pins.find(caller.tenant, wish->pin.name),
                                             caller, now_ns);
              wish->answer["shared_tokens"] = at;
              wish->answer["cached_tokens"] = at;
            } else {
              error = refusal_of(outcome);
            }
          }
        }
        visit->reply->post([this, visit, wish, error, goes_on] {
          if (error.has_value()) return context_.send_error(*visit, *error);
          if (goes_on) return keep(visit, wish);
          context_.send(*visit, json_response(wish->answer));
        });
      });
  if (!accepted) context_.send_error(*visit, engine_is_busy());
}

// Computes what is missing of a prefix and pins it before anything else is computed.
void KvApi::keep(const VisitPtr& visit, const WishPtr& wish) {
  // Lives until it has answered or the client has gone: the reply keeps it (on_gone).
  struct Call : std::enable_shared_from_this<Call> {
    std::shared_ptr<GenerationOutbox> outbox;
    std::vector<RequestId> ids;
    bool over = false;
  };
  const auto call = std::make_shared<Call>();
  const auto take = [this, visit, wish](Call& taken) {
    const GenerationUpdate update = taken.outbox->take();
    if (taken.over || !update.end.has_value()) return;
    taken.over = true;
    const GenerationEnd& end = *update.end;
    if (!end.status.ok()) return context_.send_error(*visit, api_error_from(end.status));
    if (end.finish == FinishReason::kCancelled) return context_.send_error(*visit, shutting_down());
    if (end.finish == FinishReason::kDeadline)
      return context_.send_error(*visit, deadline_exceeded(end.stats));
    if (wish->outcome != KvPins::Outcome::kPinned)
      return context_.send_error(*visit, refusal_of(*wish->outcome));
    context_.send(*visit, json_response(wish->answer));
  };
  call->outbox = std::make_shared<GenerationOutbox>(
      [reply = visit->reply, weak = call->weak_from_this(), take] {
        reply->post([weak, take] {
          if (const std::shared_ptr<Call> taken = weak.lock()) take(*taken);
        });
      });
  GenerationAsk ask{.prompt = wish->pin.tokens,
                    .params = {},
                    .priority = wish->priority,
                    .tenant = visit->caller.tenant,
                    .deadline_ns = wish->deadline_ns,
                    .at_end = {},
                    .outbox = call->outbox};
  ask.params.cache_salt = wish->pin.salt;
  ask.at_end = [this, wish, caller = visit->caller](KvPins& pins, const RequestStats& stats) {
    const int64_t now_ns = context_.model.model().clock.now_ns();
    const std::string name = wish->pin.name;
    if (wish->ttl_s.has_value())
      wish->pin.expires_ns = now_ns + static_cast<int64_t>(*wish->ttl_s * 1e9);
    wish->outcome = pins.pin(std::move(wish->pin));
    if (*wish->outcome != KvPins::Outcome::kPinned) return;
    wish->answer = session_to_json(*pins.find(caller.tenant, name), caller, now_ns);
    if (!wish->session.empty()) wish->answer["shared_tokens"] = wish->shared_tokens;
    wish->answer["cached_tokens"] = stats.cached_tokens;
  };
  std::vector<GenerationAsk> asks;
  asks.push_back(std::move(ask));
  EngineThread::Submitted submitted = context_.engine.submit(std::move(asks));
  switch (submitted.outcome) {
    case EngineThread::Outcome::kQueueFull:
      return context_.send_error(*visit, queue_full(context_.engine.config()));
    case EngineThread::Outcome::kStopping: return context_.send_error(*visit, shutting_down());
    case EngineThread::Outcome::kAccepted: break;
  }
  call->ids = std::move(submitted.ids);
  visit->reply->on_gone([this, visit, call] {
    if (std::exchange(call->over, true)) return;
    for (const RequestId id : call->ids) context_.engine.cancel(id);
    context_.log(*visit, {{"status", 499}, {"finish", "the client left"}});
  });
}

void KvApi::explain(const VisitPtr& visit) {
  read_wish(
      visit,
      [this, visit](const Json& body) -> ApiResult<WishPtr> {
        auto wish = std::make_shared<Wish>();
        if (body.contains("request")) {
          Fields fields(body);
          wish->session = fields.text("request").value_or("");
          if (fields.error().has_value()) return *fields.error();
          return wish;
        }
        ApiResult<GenerationSpec> read = read_prompt_of(body, context_.model, visit->caller.tenant,
                                                        /*opens_reply=*/true);
        if (auto* error = std::get_if<ApiError>(&read)) return std::move(*error);
        wish->pin.salt = std::get<GenerationSpec>(read).params.cache_salt;
        wish->pin.tokens = std::move(std::get<GenerationSpec>(read).prompts.front().tokens);
        return wish;
      },
      [this, visit](const WishPtr& wish) {
        if (wish->pin.tokens.empty()) {
          std::optional<Json> told = context_.recent.find(visit->caller, wish->session);
          if (!told.has_value()) {
            ApiError error = bad_parameter(
                "request", "none of the last requests that you may see has this id", "not_found");
            error.status = 404;
            return context_.send_error(*visit, error);
          }
          (*told)["object"] = "kv.explanation";
          return context_.send(*visit, json_response(*told));
        }
        // Looks only; the answer is made on the server's thread, which has the tokenizer's time.
        const bool accepted =
            context_.engine.inspect([this, visit, wish](const EngineSnapshot& snapshot) {
              const std::vector<TokenId>& tokens = wish->pin.tokens;
              const KvCache::Preview preview = snapshot.pins.cache().preview(
                  wish->pin.salt, tokens, static_cast<int64_t>(tokens.size()) - 1,
                  visit->caller.tenant);
              visit->reply->post([this, visit, wish, preview] {
                const std::vector<TokenId>& prompt = wish->pin.tokens;
                const auto found = static_cast<size_t>(preview.found.reused());
                Json shown = {{"object", "kv.explanation"},
                              {"prompt_tokens", prompt.size()},
                              {"cached_tokens", found},
                              {"tier_tokens", preview.tier_tokens}};
                shown.update(explanation_to_json(
                    context_.model, preview.found,
                    found < prompt.size() ? std::optional(prompt[found]) : std::nullopt));
                context_.send(*visit, json_response(shown));
              });
            });
        if (!accepted) context_.send_error(*visit, engine_is_busy());
      });
}

}  // namespace quipu
