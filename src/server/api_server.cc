#include "server/api_server.h"

#include <algorithm>
#include <chrono>

#include "base/utf8.h"
#include "server/generation_call.h"
#include "server/generation_spec.h"
#include "server/http_server.h"
#include "server/kv_watch.h"
#include "server/model_info.h"
#include "server/recent_requests.h"
#include "server/reply_format.h"
#include "server/work_queue.h"
#include "web/assets.h"

namespace quipu {

namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

constexpr int kWatchersMax = 16;

// The page is files of its own and talks to its own server: nothing else may load, run or frame it.
const HttpHeaders kPageHeaders = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Cache-Control", "no-cache"},
};

const WebAsset* find_asset(std::string_view path) {
  for (const WebAsset& asset : web_assets()) {
    if (asset.path == path) return &asset;
  }
  return nullptr;
}

// In the form of the API that the path belongs to.
HttpResponse error_at(const std::string& path, const ApiError& error) {
  HttpResponse response = error_response(error);
  if (path.starts_with("/v1/messages")) response.body = dump(anthropic_error(error));
  return response;
}

}  // namespace

class ApiServer::Impl {
 public:
  Impl(const ServedModel& model, EngineThread& engine, ApiKeys keys, AccessLog log,
       ApiServerConfig config)
      : model_(model),
        engine_(engine),
        keys_(std::move(keys)),
        log_(std::move(log)),
        config_(std::move(config)),
        work_(config_.work_threads) {}

  std::optional<HttpResponse> refuse(const HttpHead& head) {
    const std::optional<ApiError> error = why_not(head);
    if (!error.has_value()) return std::nullopt;
    log_.write({{"id", head.id},
                {"method", head.method},
                {"path", head.path},
                {"status", error->status},
                {"code", error->code.value_or("")}});
    HttpResponse response = error_at(head.path, *error);
    if (error->status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
    if (error->status == 405) response.headers.emplace_back("Allow", allowed_methods(head.path));
    return response;
  }

  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
    auto visit = std::make_shared<Visit>();  // shared: see Visit
    visit->tenant = keys_.tenant_of(request).value_or("");
    visit->request = std::move(request);
    visit->reply = std::move(reply);
    visit->begin = std::chrono::steady_clock::now();
    const Route* route = find_route(visit->request.method, visit->request.path);
    QUIPU_CHECK(route != nullptr, "a request without a route was not refused");
    (this->*route->answer)(visit);
  }

  void drain() { draining_ = true; }
  void stop() { work_.stop(); }

 private:
  // A request on its way. Shared: with the work queue, the engine thread and the reply.
  struct Visit {
    HttpRequest request;
    std::shared_ptr<HttpReply> reply;
    std::string tenant;
    SteadyTime begin;
  };
  using VisitPtr = std::shared_ptr<Visit>;

  struct Route {
    std::string_view method, path;
    void (Impl::*answer)(const VisitPtr&);
    bool is_public = false;  // needs no key
  };

  static const std::vector<Route>& routes() {
    static const std::vector<Route> all = {
        {"GET", "/health", &Impl::health, true},
        {"GET", "/v1/health", &Impl::health, true},
        {"GET", "/v1/models", &Impl::models},
        {"GET", "/models", &Impl::models},
        {"GET", "/v1/models/*", &Impl::one_model},
        {"GET", "/props", &Impl::props},
        {"GET", "/slots", &Impl::slots},
        {"GET", "/metrics", &Impl::metrics},
        {"GET", "/version", &Impl::version},
        {"GET", "/v1/kv", &Impl::kv},
        {"GET", "/v1/kv/snapshot", &Impl::kv_snapshot},
        {"GET", "/v1/kv/events", &Impl::kv_events},
        {"GET", "/", &Impl::page, true},
        {"GET", "/web/*", &Impl::page, true},
        {"POST", "/v1/chat/completions", &Impl::chat},
        {"POST", "/chat/completions", &Impl::chat},
        {"POST", "/v1/completions", &Impl::completions},
        {"POST", "/completion", &Impl::llama_completion},
        {"POST", "/completions", &Impl::llama_completion},
        {"POST", "/tokenize", &Impl::tokenize},
        {"POST", "/detokenize", &Impl::detokenize},
        {"POST", "/apply-template", &Impl::apply_template},
        {"POST", "/v1/responses", &Impl::responses},
        {"POST", "/v1/messages", &Impl::messages},
        {"POST", "/v1/messages/count_tokens", &Impl::count_tokens},
        {"POST", "/v1/embeddings", &Impl::not_yet},
        {"POST", "/embedding", &Impl::not_yet},
        {"POST", "/infill", &Impl::not_yet},
        {"POST", "/v1/rerank", &Impl::not_yet},
    };
    return all;
  }

  static bool matches(const Route& route, std::string_view path) {
    if (!route.path.ends_with("*")) return route.path == path;
    const std::string_view prefix = route.path.substr(0, route.path.size() - 1);
    return path.starts_with(prefix) && path.size() > prefix.size();
  }

  static const Route* find_route(std::string_view method, std::string_view path) {
    for (const Route& route : routes()) {
      const bool head = method == "HEAD" && route.method == "GET";
      if (matches(route, path) && (route.method == method || head)) return &route;
    }
    return nullptr;
  }

  static std::string allowed_methods(std::string_view path) {
    std::string methods;
    for (const Route& route : routes()) {
      if (!matches(route, path)) continue;
      methods += methods.empty() ? "" : ", ";
      methods += route.method == "GET" ? "GET, HEAD" : std::string(route.method);
    }
    return methods;
  }

  // Everything that can be said before the body is read.
  std::optional<ApiError> why_not(const HttpHead& head) const {
    if (config_.allowed_hosts.has_value()) {
      const std::string host = host_name_of(head.header("host"));
      const std::vector<std::string>& allowed = *config_.allowed_hosts;
      if (!host.empty() && !is_loopback_host(host) &&
          std::find(allowed.begin(), allowed.end(), host) == allowed.end()) {
        ApiError error = bad_parameter(
            "", "this server answers to loopback names only; start it with --allow-host for others",
            "host_not_allowed");
        error.status = 403;
        return error;
      }
    }
    const Route* route = find_route(head.method, head.path);
    const bool is_public = route != nullptr && route->is_public;
    if (!is_public && !keys_.tenant_of(head).has_value()) {
      return ApiError{.status = 401,
                      .message = "a valid API key is needed: Authorization: Bearer KEY",
                      .type = "authentication_error",
                      .code = "invalid_api_key"};
    }
    if (route == nullptr) {
      const std::string methods = allowed_methods(head.path);
      ApiError error = bad_parameter("",
                                     methods.empty() ? "there is nothing at this path"
                                                     : fmt::format("this path takes {}", methods),
                                     methods.empty() ? "not_found" : "method_not_allowed");
      error.status = methods.empty() ? 404 : 405;
      return error;
    }
    if (route->method == "POST") {
      std::string type(head.header("content-type"));
      std::transform(type.begin(), type.end(), type.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      const bool is_json = type.starts_with("application/json") &&
                           (type.size() == 16 || type[16] == ';' || type[16] == ' ');
      if (!is_json) {
        ApiError error =
            bad_parameter("", "the body must be sent as Content-Type: application/json",
                          "unsupported_media_type");
        error.status = 415;
        return error;
      }
    }
    return std::nullopt;
  }

  // ---- answers

  void log(const Visit& visit, Json fields) {
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - visit.begin)
            .count();
    Json line = {
        {"id", visit.request.id}, {"method", visit.request.method}, {"path", visit.request.path}};
    line.update(fields);
    line["ms"] = std::round(ms * 1000) / 1000;
    log_.write(line);
  }

  // `code`: of the error that the response tells, if it does.
  void send(const Visit& visit, HttpResponse response, const std::string& code = {}) {
    Json fields = {{"status", response.status}};
    if (!code.empty()) fields["code"] = code;
    log(visit, std::move(fields));
    visit.reply->send(std::move(response));
  }
  void send_error(const Visit& visit, const ApiError& error) {
    send(visit, error_at(visit.request.path, error), error.code.value_or(""));
  }

  // Runs `make` (Json body -> ApiResult<Json>) on the work queue and sends what it gives.
  template <typename Make>
  void answer_with(const VisitPtr& visit, Make make) {
    work_.add([this, visit, make = std::move(make)] {
      ApiResult<Json> answer = guarded<Json>([&]() -> ApiResult<Json> {
        ApiResult<Json> body = parse_json_object(visit->request.body);
        if (std::holds_alternative<ApiError>(body)) return body;
        return make(std::get<Json>(body));
      });
      const auto* error = std::get_if<ApiError>(&answer);
      // Shared: std::function copies what it calls.
      auto response =
          std::make_shared<HttpResponse>(error != nullptr ? error_at(visit->request.path, *error)
                                                          : json_response(std::get<Json>(answer)));
      visit->reply->post(
          [this, visit, response, code = error != nullptr ? error->code.value_or("") : ""] {
            send(*visit, std::move(*response), code);
          });
    });
  }

  // Libraries throw; nothing above them should see it.
  template <typename T>
  static ApiResult<T> guarded(const std::function<ApiResult<T>()>& make) {
    try {
      return make();
    } catch (const Json::exception&) {
      return bad_parameter("", "a value has the wrong type", "invalid_type");
    } catch (const std::exception&) {
      return api_error_from(make_error(ErrorCode::kInternal, "an exception in a request handler"));
    }
  }

  using ReadRequest = ApiResult<GenerationSpec> (*)(const Json&, const ServedModel&,
                                                    const std::string&);
  using MakeFormat = std::unique_ptr<ReplyFormat> (*)(ReplyContext);

  // Reads the body on the work queue, then runs the generation.
  void generate(const VisitPtr& visit, ReadRequest read, MakeFormat make_format,
                const char* id_prefix) {
    work_.add([this, visit, read, make_format, id_prefix] {
      ApiResult<GenerationSpec> read_spec =
          guarded<GenerationSpec>([&]() -> ApiResult<GenerationSpec> {
            ApiResult<Json> body = parse_json_object(visit->request.body);
            if (auto* error = std::get_if<ApiError>(&body)) return std::move(*error);
            return read(std::get<Json>(body), model_, visit->tenant);
          });
      visit->request.body = {};
      // Shared: by the call and its format.
      auto result = std::make_shared<ApiResult<GenerationSpec>>(std::move(read_spec));
      visit->reply->post([this, visit, result, make_format, id_prefix] {
        if (const auto* error = std::get_if<ApiError>(result.get()))
          return send_error(*visit, *error);
        // Under keys it is left out: it looks under the salts of others too.
        if (watchers_ > 0 && keys_.empty())
          std::get_if<GenerationSpec>(result.get())->params.explain_cache = true;
        const std::shared_ptr<const GenerationSpec> spec(result,
                                                         std::get_if<GenerationSpec>(result.get()));
        ReplyContext context{.model = model_,
                             .spec = spec,
                             .id = id_prefix + visit->request.id,
                             .created_s = unix_seconds()};
        GenerationCall::start(engine_, visit->reply, spec, make_format(std::move(context)),
                              [this, visit, spec](const GenerationCall::Outcome& outcome) {
                                recent_.add(model_, *spec,
                                            {.id = visit->request.id,
                                             .path = visit->request.path,
                                             .tenant = visit->tenant,
                                             .ended_ms = unix_ms(),
                                             .outcome = outcome},
                                            keys_.empty());
                                log(*visit,
                                    {{"status", outcome.status},
                                     {"finish", outcome.finish},
                                     {"prompt_tokens", outcome.stats.prompt_tokens},
                                     {"cached_tokens", outcome.stats.cached_tokens},
                                     {"completion_tokens", outcome.stats.completion_tokens}});
                              });
      });
    });
  }

  void chat(const VisitPtr& visit) {
    generate(visit, read_chat_request, make_chat_format, "chatcmpl-");
  }
  void completions(const VisitPtr& visit) {
    generate(visit, read_completion_request, make_completion_format, "cmpl-");
  }
  void llama_completion(const VisitPtr& visit) {
    generate(visit, read_llama_request, make_llama_format, "");
  }

  void responses(const VisitPtr& visit) {
    generate(visit, read_responses_request, make_responses_format, "resp_");
  }
  void messages(const VisitPtr& visit) {
    generate(visit, read_anthropic_request, make_anthropic_format, "msg_");
  }
  void count_tokens(const VisitPtr& visit) {
    answer_with(visit, [this](const Json& body) -> ApiResult<Json> {
      Json whole = body;
      if (!whole.contains("max_tokens")) whole["max_tokens"] = 1;  // it counts, and makes nothing
      ApiResult<GenerationSpec> spec = read_anthropic_request(whole, model_, "");
      if (auto* error = std::get_if<ApiError>(&spec)) return std::move(*error);
      return Json{{"input_tokens", std::get<GenerationSpec>(spec).prompts.front().tokens.size()}};
    });
  }

  // Runs `look` between two steps of the engine and sends what it gives.
  void look_at_engine(const VisitPtr& visit,
                      std::function<HttpResponse(const EngineSnapshot&)> look) {
    const bool accepted =
        engine_.inspect([this, visit, look = std::move(look)](const EngineSnapshot& snapshot) {
          auto response = std::make_shared<HttpResponse>(look(snapshot));  // shared: as above
          visit->reply->post([this, visit, response] { send(*visit, std::move(*response)); });
        });
    if (accepted) return;
    ApiError error{.status = 503,
                   .message = "too many requests for the engine's state at once",
                   .type = "server_error",
                   .code = "overloaded",
                   .retry_after_s = 1};
    send_error(*visit, error);
  }

  void health(const VisitPtr& visit) {
    visit->reply->send(draining_ ? error_response(shutting_down())
                                 : json_response({{"status", "ok"}}));  // not logged: probes
  }
  void version(const VisitPtr& visit) { send(*visit, json_response({{"version", QUIPU_VERSION}})); }
  void models(const VisitPtr& visit) { send(*visit, json_response(models_to_json(model_))); }
  void one_model(const VisitPtr& visit) {
    const std::string_view path = visit->request.path;
    const std::string name = percent_decoded(path.substr(std::string_view("/v1/models/").size()));
    const std::optional<ApiError> error = model_.check_name(name);
    if (error.has_value()) return send_error(*visit, *error);
    send(*visit, json_response(model_to_json(model_, name)));
  }
  void props(const VisitPtr& visit) { send(*visit, json_response(props_to_json(model_))); }
  void slots(const VisitPtr& visit) {
    look_at_engine(visit, [this](const EngineSnapshot& snapshot) {
      return json_response(slots_to_json(model_, snapshot));
    });
  }
  void kv(const VisitPtr& visit) {
    look_at_engine(
        visit, [](const EngineSnapshot& snapshot) { return json_response(kv_to_json(snapshot)); });
  }
  KvWatch::Context kv_context(const VisitPtr& visit) {
    return {.model = model_,
            .engine = engine_,
            .recent = recent_,
            .tenant = visit->tenant,
            .is_over = [this] { return draining_; },
            .done = [] {}};
  }
  void kv_snapshot(const VisitPtr& visit) {
    send_kv_snapshot(kv_context(visit), visit->reply, [this, visit](HttpResponse response) {
      send(*visit, std::move(response));
    });
  }
  void kv_events(const VisitPtr& visit) {
    if (watchers_ >= kWatchersMax) {
      ApiError error{.status = 503,
                     .message = fmt::format("{} clients watch the cache already", watchers_),
                     .type = "server_error",
                     .code = "overloaded",
                     .retry_after_s = 10};
      return send_error(*visit, error);
    }
    ++watchers_;
    KvWatch::Context context = kv_context(visit);
    context.done = [this, visit] {
      --watchers_;
      log(*visit, {{"status", 200}});
    };
    KvWatch::start(std::move(context), visit->reply);
  }

  // The page, with an entity tag so that a browser asks and mostly need not read.
  void page(const VisitPtr& visit) {
    const WebAsset* asset = find_asset(visit->request.path);
    if (asset == nullptr) {
      ApiError error = bad_parameter("", "there is nothing at this path", "not_found");
      error.status = 404;
      return send_error(*visit, error);
    }
    HttpResponse response;
    response.headers = kPageHeaders;
    response.headers.emplace_back("ETag", asset->etag);
    response.content_type = asset->content_type;
    if (visit->request.header("if-none-match").find(asset->etag) != std::string_view::npos) {
      response.status = 304;
    } else {
      response.body = asset->content;
    }
    visit->reply->send(std::move(response));  // not logged: it is no use of the model
  }

  void metrics(const VisitPtr& visit) {
    look_at_engine(visit, [this](const EngineSnapshot& snapshot) {
      HttpResponse response;
      response.content_type = kMetricsContentType;
      response.body = metrics_text(snapshot, model_.name());
      return response;
    });
  }

  void tokenize(const VisitPtr& visit) {
    answer_with(visit, [this](const Json& body) { return tokenize_json(body, model_); });
  }
  void detokenize(const VisitPtr& visit) {
    answer_with(visit, [this](const Json& body) { return detokenize_json(body, model_); });
  }
  void apply_template(const VisitPtr& visit) {
    answer_with(visit, [this](const Json& body) -> ApiResult<Json> {
      ApiResult<std::string> text = render_messages(body, model_);
      if (auto* error = std::get_if<ApiError>(&text)) return std::move(*error);
      return Json{{"prompt", std::get<std::string>(text)}};
    });
  }
  void not_yet(const VisitPtr& visit) {
    send_error(*visit, not_supported("", fmt::format("{} is not supported by this version of quipu",
                                                     visit->request.path)));
  }

  const ServedModel& model_;
  EngineThread& engine_;
  const ApiKeys keys_;
  AccessLog log_;
  const ApiServerConfig config_;
  RecentRequests recent_;
  int watchers_ = 0;  // of the cache
  bool draining_ = false;
  WorkQueue work_;  // last: its threads use the rest
};

ApiServer::ApiServer(const ServedModel& model, EngineThread& engine, ApiKeys keys, AccessLog log,
                     ApiServerConfig config)
    : impl_(std::make_unique<Impl>(model, engine, std::move(keys), std::move(log),
                                   std::move(config))) {}
ApiServer::~ApiServer() = default;

std::optional<HttpResponse> ApiServer::refuse(const HttpHead& head) { return impl_->refuse(head); }
void ApiServer::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  impl_->handle(std::move(request), std::move(reply));
}
HttpResponse ApiServer::protocol_error(int status, std::string_view what) {
  ApiError error = bad_parameter("", std::string(what), "bad_http");
  error.status = status;
  if (status == 503) error.type = "server_error";
  return error_response(error);
}
void ApiServer::drain() { impl_->drain(); }
void ApiServer::stop() { impl_->stop(); }

}  // namespace quipu
