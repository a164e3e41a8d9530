#include "server/api_server.h"

#include <algorithm>
#include <chrono>

#include "base/utf8.h"
#include "server/api_context.h"
#include "server/generation_call.h"
#include "server/generation_spec.h"
#include "server/http_server.h"
#include "server/kv_api.h"
#include "server/model_info.h"
#include "server/reply_format.h"
#include "web/assets.h"

namespace quipu {

namespace {

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

}  // namespace

class ApiServer::Impl {
 public:
  Impl(const ServedModel& model, EngineThread& engine, ApiKeys keys, AccessLog log,
       ApiServerConfig config)
      : keys_(std::move(keys)),
        config_(std::move(config)),
        context_(model, engine, std::move(log), keys_.num_tenants(), config_.work_threads),
        kv_(context_) {
    context_.request_timeout = config_.request_timeout;
  }

  std::optional<HttpResponse> refuse(const HttpHead& head) {
    const std::optional<ApiError> error = why_not(head);
    if (!error.has_value()) return std::nullopt;
    context_.log_file.write({{"id", head.id},
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
    visit->caller = keys_.caller_of(request).value_or(Caller());
    visit->request = std::move(request);
    visit->reply = std::move(reply);
    visit->begin = std::chrono::steady_clock::now();
    visit->arrived_ns = context_.model.model().clock.now_ns();
    const Route* route = find_route(visit->request.method, visit->request.path);
    QUIPU_CHECK(route != nullptr, "a request without a route was not refused");
    (this->*route->answer)(visit);
  }

  void drain() { context_.is_draining = true; }
  void stop() { context_.work.stop(); }

 private:
  friend class ApiServer;
  enum class Access { kPublic, kUser, kOperator };
  struct Route {
    std::string_view method, path;
    void (Impl::*answer)(const VisitPtr&);
    Access access = Access::kUser;
  };

  static const std::vector<Route>& routes() {
    static const std::vector<Route> all = {
        {"GET", "/health", &Impl::health, Access::kPublic},
        {"GET", "/v1/health", &Impl::health, Access::kPublic},
        {"GET", "/v1/models", &Impl::models},
        {"GET", "/models", &Impl::models},
        {"GET", "/v1/models/*", &Impl::one_model},
        {"GET", "/props", &Impl::props},
        {"GET", "/slots", &Impl::slots},
        {"GET", "/metrics", &Impl::metrics, Access::kOperator},
        {"GET", "/version", &Impl::version},
        {"GET", "/v1/kv", &Impl::kv},
        {"GET", "/v1/kv/snapshot", &Impl::kv_snapshot},
        {"GET", "/v1/kv/events", &Impl::kv_events},
        {"GET", "/v1/kv/sessions", &Impl::kv_sessions},
        {"POST", "/v1/kv/pin", &Impl::kv_pin},
        {"POST", "/v1/kv/unpin", &Impl::kv_unpin},
        {"POST", "/v1/kv/fork", &Impl::kv_fork},
        {"POST", "/v1/kv/explain", &Impl::kv_explain},
        {"GET", "/", &Impl::page, Access::kPublic},
        {"GET", "/web/*", &Impl::page, Access::kPublic},
        {"GET", "/openapi.json", &Impl::openapi, Access::kPublic},
        {"GET", "/v1/openapi.json", &Impl::openapi, Access::kPublic},
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
    const bool is_public =
        route != nullptr && (route->access == Access::kPublic ||
                             (config_.open_metrics && route->answer == &Impl::metrics));
    const std::optional<Caller> caller = keys_.caller_of(head);
    if (!is_public && !caller.has_value()) {
      return ApiError{.status = 401,
                      .message = "a valid API key is needed: Authorization: Bearer KEY",
                      .type = "authentication_error",
                      .code = "invalid_api_key"};
    }
    if (!is_public && route != nullptr && route->access == Access::kOperator &&
        !caller->is_operator()) {
      return ApiError{.status = 403,
                      .message = "this tells of all tenants: it needs an operator's key",
                      .type = "permission_error",
                      .code = "operator_only"};
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

  using ReadRequest = ApiResult<GenerationSpec> (*)(const Json&, const ServedModel&,
                                                    const std::string&);
  using MakeFormat = std::unique_ptr<ReplyFormat> (*)(ReplyContext);

  // Reads the body on the work queue, then runs the generation.
  void generate(const VisitPtr& visit, ReadRequest read, MakeFormat make_format,
                const char* id_prefix) {
    context_.work.add([this, visit, read, make_format, id_prefix] {
      ApiResult<GenerationSpec> read_spec =
          guarded<GenerationSpec>([&]() -> ApiResult<GenerationSpec> {
            ApiResult<Json> body = parse_json_object(visit->request.body);
            if (auto* error = std::get_if<ApiError>(&body)) return std::move(*error);
            ApiResult<GenerationSpec> spec =
                read(std::get<Json>(body), context_.model, visit->caller.tenant);
            auto* asked = std::get_if<GenerationSpec>(&spec);
            if (asked == nullptr) return spec;
            ApiResult<std::optional<int64_t>> deadline =
                context_.deadline_of(*visit, asked->timeout_ms);
            if (auto* error = std::get_if<ApiError>(&deadline)) return std::move(*error);
            asked->deadline_ns = std::get<std::optional<int64_t>>(deadline);
            return spec;
          });
      visit->request.body = {};
      // Shared: by the call and its format.
      auto result = std::make_shared<ApiResult<GenerationSpec>>(std::move(read_spec));
      visit->reply->post([this, visit, result, make_format, id_prefix] {
        if (const auto* error = std::get_if<ApiError>(result.get()))
          return context_.send_error(*visit, *error);
        GenerationParams& params = std::get_if<GenerationSpec>(result.get())->params;
        params.explain_cache = context_.watchers.count() > 0;
        params.explain_salts = visit->caller.tenant;
        const std::shared_ptr<const GenerationSpec> spec(result,
                                                         std::get_if<GenerationSpec>(result.get()));
        ReplyContext context{.model = context_.model,
                             .spec = spec,
                             .id = id_prefix + visit->request.id,
                             .created_s = unix_seconds()};
        GenerationCall::start(
            context_.engine, visit->reply, spec, make_format(std::move(context)),
            [this, visit, spec](const GenerationCall::Outcome& outcome) {
              context_.recent.add(context_.model, *spec,
                                  {.id = visit->request.id,
                                   .path = visit->request.path,
                                   .tenant = visit->caller.tenant,
                                   .ended_ms = unix_ms(),
                                   .outcome = outcome});
              context_.log(*visit, {{"status", outcome.status},
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
    context_.answer_with(visit, [this](const Json& body) -> ApiResult<Json> {
      Json whole = body;
      if (!whole.contains("max_tokens")) whole["max_tokens"] = 1;  // it counts, and makes nothing
      ApiResult<GenerationSpec> spec = read_anthropic_request(whole, context_.model, "");
      if (auto* error = std::get_if<ApiError>(&spec)) return std::move(*error);
      return Json{{"input_tokens", std::get<GenerationSpec>(spec).prompts.front().tokens.size()}};
    });
  }

  void health(const VisitPtr& visit) {
    visit->reply->send(context_.is_draining
                           ? error_response(shutting_down())
                           : json_response({{"status", "ok"}}));  // not logged: probes
  }
  void version(const VisitPtr& visit) {
    context_.send(*visit, json_response({{"version", QUIPU_VERSION}}));
  }
  void models(const VisitPtr& visit) {
    context_.send(*visit, json_response(models_to_json(context_.model)));
  }
  void one_model(const VisitPtr& visit) {
    const std::string_view path = visit->request.path;
    const std::string name = percent_decoded(path.substr(std::string_view("/v1/models/").size()));
    const std::optional<ApiError> error = context_.model.check_name(name);
    if (error.has_value()) return context_.send_error(*visit, *error);
    context_.send(*visit, json_response(model_to_json(context_.model, name)));
  }
  void props(const VisitPtr& visit) {
    context_.send(*visit, json_response(props_to_json(context_.model)));
  }
  void slots(const VisitPtr& visit) {
    context_.look_at_engine(visit, [this, visit](const EngineSnapshot& snapshot) {
      return json_response(slots_to_json(context_.model, snapshot, visit->caller));
    });
  }
  void kv(const VisitPtr& visit) { kv_.summary(visit); }
  void kv_snapshot(const VisitPtr& visit) { kv_.snapshot(visit); }
  void kv_events(const VisitPtr& visit) { kv_.events(visit); }
  void kv_sessions(const VisitPtr& visit) { kv_.sessions(visit); }
  void kv_pin(const VisitPtr& visit) { kv_.pin(visit); }
  void kv_unpin(const VisitPtr& visit) { kv_.unpin(visit); }
  void kv_fork(const VisitPtr& visit) { kv_.fork(visit); }
  void kv_explain(const VisitPtr& visit) { kv_.explain(visit); }

  // The page, with an entity tag so that a browser asks and mostly need not read.
  void page(const VisitPtr& visit) { send_asset(visit, visit->request.path); }
  void openapi(const VisitPtr& visit) { send_asset(visit, "/web/openapi.json"); }
  void send_asset(const VisitPtr& visit, std::string_view path) {
    const WebAsset* asset = find_asset(path);
    if (asset == nullptr) {
      ApiError error = bad_parameter("", "there is nothing at this path", "not_found");
      error.status = 404;
      return context_.send_error(*visit, error);
    }
    HttpResponse response;
    response.headers = kPageHeaders;
    const bool gzip = accepts_coding(visit->request.header("accept-encoding"), "gzip");
    const std::string_view etag = gzip ? asset->gzip_etag : asset->etag;
    response.headers.emplace_back("ETag", etag);
    response.headers.emplace_back("Vary", "Accept-Encoding");
    response.content_type = asset->content_type;
    if (visit->request.header("if-none-match").find(etag) != std::string_view::npos) {
      response.status = 304;
    } else {
      if (gzip) response.headers.emplace_back("Content-Encoding", "gzip");
      response.body = gzip ? asset->gzip : asset->content;
    }
    visit->reply->send(std::move(response));  // not logged: it is no use of the model
  }

  void metrics(const VisitPtr& visit) {
    context_.look_at_engine(visit, [this](const EngineSnapshot& snapshot) {
      HttpResponse response;
      response.content_type = kMetricsContentType;
      response.body =
          metrics_text(snapshot, context_.model.constraints().counters(), context_.model.name());
      return response;
    });
  }

  void tokenize(const VisitPtr& visit) {
    context_.answer_with(visit,
                         [this](const Json& body) { return tokenize_json(body, context_.model); });
  }
  void detokenize(const VisitPtr& visit) {
    context_.answer_with(
        visit, [this](const Json& body) { return detokenize_json(body, context_.model); });
  }
  void apply_template(const VisitPtr& visit) {
    context_.answer_with(visit, [this](const Json& body) -> ApiResult<Json> {
      Fields fields(body);
      const ToolRequest tools = read_tools(fields, ToolDialect::kChat);
      if (fields.error().has_value()) return *fields.error();
      ApiResult<std::string> text = render_messages(body, tools, context_.model);
      if (auto* error = std::get_if<ApiError>(&text)) return std::move(*error);
      return Json{{"prompt", std::get<std::string>(text)}};
    });
  }
  void not_yet(const VisitPtr& visit) {
    context_.send_error(
        *visit, not_supported("", fmt::format("{} is not supported by this version of quipu",
                                              visit->request.path)));
  }

  const ApiKeys keys_;
  const ApiServerConfig config_;
  ApiContext context_;
  KvApi kv_;
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
std::vector<std::pair<std::string, std::string>> ApiServer::routes() {
  std::vector<std::pair<std::string, std::string>> all;
  for (const Impl::Route& route : Impl::routes()) all.emplace_back(route.method, route.path);
  return all;
}
void ApiServer::drain() { impl_->drain(); }
void ApiServer::stop() { impl_->stop(); }

}  // namespace quipu
