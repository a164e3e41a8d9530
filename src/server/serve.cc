#include "server/serve.h"

#include "app/engine_thread.h"
#include "server/api_server.h"
#include "server/supervisor.h"

namespace quipu {

namespace {

constexpr std::chrono::milliseconds kDrainPoll{20};
constexpr std::chrono::milliseconds kLastWords{1000};  // for answers to what was cancelled

// Ends a server in order: no new connections, then nothing in flight, then nothing unsent.
class Shutdown {
 public:
  Shutdown(HttpServer& http, ApiServer& api, EngineThread& engine,
           std::chrono::milliseconds patience)
      : http_(http), api_(api), engine_(engine), patience_(patience) {}

  void on_signal() {
    if (deadline_.has_value()) {  // the second one
      deadline_ = std::chrono::steady_clock::now();
      return;
    }
    deadline_ = std::chrono::steady_clock::now() + patience_;
    notify_supervisor("STOPPING=1");
    api_.drain();
    engine_.drain();
    http_.drain();
    poll();
  }

 private:
  void poll() {
    if (http_.connections() == 0) return http_.stop();
    const auto now = std::chrono::steady_clock::now();
    if (!cancelled_ && now >= *deadline_) {
      cancelled_ = true;
      engine_.stop();  // every request gets its end, and so every answer
      deadline_ = now + kLastWords;
    } else if (cancelled_ && now >= *deadline_) {
      return http_.stop();
    }
    http_.after(kDrainPoll, [this] { poll(); });
  }

  HttpServer& http_;
  ApiServer& api_;
  EngineThread& engine_;
  const std::chrono::milliseconds patience_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  bool cancelled_ = false;
};

}  // namespace

Status check_serve_options(const ServeOptions& options) {
  QUIPU_RETURN_IF_ERROR(check_host(options.http.host));
  if (!is_loopback_host(options.http.host) && options.api_keys.empty() && !options.allow_open) {
    return make_error(ErrorCode::kInvalidArgument,
                      "other machines can reach {}: give an --api-key or an --api-key-file, or say "
                      "--allow-open if everybody may use this server",
                      options.http.host);
  }
  QUIPU_RETURN_IF_ERROR(check_tls(options.http));
  QUIPU_RETURN_IF_ERROR(AccessLog::open(options.access_log).status());
  return check_can_listen(options.http);
}

Status serve(LoadedModel& model, const ServeOptions& options,
             const std::function<void(const std::string& address)>& on_ready) {
  QUIPU_RETURN_IF_ERROR(check_serve_options(options));
  QUIPU_RETURN_IF_ERROR(require_decoder_only(model, "serve"));
  QUIPU_ASSIGN_OR_RETURN(const ServedModel served,
                         ServedModel::create(model, options.names, options.parallel));
  QUIPU_ASSIGN_OR_RETURN(AccessLog log, AccessLog::open(options.access_log));
  ApiKeys keys;
  for (const ApiKey& key : options.api_keys) keys.add(key);
  ApiServerConfig config;
  config.open_metrics = options.open_metrics;
  config.request_timeout = options.request_timeout;
  if (keys.empty() && !options.allow_open) config.allowed_hosts = options.allowed_hosts;

  const KvPinLimits pins{.share = options.pin_share, .owners = std::max(1, keys.num_tenants())};
  EngineThread engine(
      model, {.running_max = options.parallel, .waiting_max = options.queue, .pins = pins});
  ApiServer api(served, engine, std::move(keys), std::move(log), std::move(config));
  QUIPU_ASSIGN_OR_RETURN(const std::unique_ptr<HttpServer> http,
                         HttpServer::create(options.http, api));
  Shutdown shutdown(*http, api, engine, options.drain_timeout);
  on_ready(http->address());
  notify_supervisor("READY=1");
  http->run([&](int) { shutdown.on_signal(); });
  // Nobody may call into the sockets' loop when it ends.
  api.stop();
  engine.stop();
  return Status::ok_status();
}

}  // namespace quipu
