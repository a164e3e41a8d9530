#include "server/api_context.h"

#include <charconv>
#include <cmath>

#include "server/json_body.h"
#include "server/reply_format.h"

namespace quipu {

HttpResponse error_at(const std::string& path, const ApiError& error) {
  HttpResponse response = error_response(error);
  if (path.starts_with("/v1/messages")) response.body = dump(anthropic_error(error));
  return response;
}

ApiError engine_is_busy() {
  return {.status = 503,
          .message = "too many requests for the engine's state at once",
          .type = "server_error",
          .code = "overloaded",
          .retry_after_s = 1};
}

ApiResult<std::optional<int64_t>> ApiContext::deadline_of(const Visit& visit,
                                                          std::optional<int64_t> timeout_ms) const {
  constexpr double kSecondsMax = 7 * 86'400;
  std::optional<int64_t> ms = timeout_ms;
  if (const std::string_view given = visit.request.header("x-request-timeout"); !given.empty()) {
    double seconds = 0;
    const auto read = std::from_chars(given.data(), given.data() + given.size(), seconds);
    if (read.ec != std::errc() || read.ptr != given.data() + given.size() || !(seconds > 0) ||
        seconds > kSecondsMax) {
      return bad_parameter("X-Request-Timeout",
                           fmt::format("the header X-Request-Timeout is no number of seconds from "
                                       "0.001 to {}",
                                       kSecondsMax));
    }
    const auto asked = std::max<int64_t>(1, static_cast<int64_t>(seconds * 1000));
    ms = std::min(ms.value_or(asked), asked);
  }
  if (request_timeout.count() > 0)
    ms = std::min<int64_t>(ms.value_or(request_timeout.count()), request_timeout.count());
  if (!ms.has_value()) return std::optional<int64_t>();
  return std::optional<int64_t>(visit.arrived_ns + *ms * 1'000'000);
}

void ApiContext::log(const Visit& visit, Json fields) {
  const double ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - visit.begin)
          .count();
  Json line = {
      {"id", visit.request.id}, {"method", visit.request.method}, {"path", visit.request.path}};
  line.update(fields);
  line["ms"] = std::round(ms * 1000) / 1000;
  log_file.write(line);
}

void ApiContext::send(const Visit& visit, HttpResponse response, const std::string& code) {
  Json fields = {{"status", response.status}};
  if (!code.empty()) fields["code"] = code;
  log(visit, std::move(fields));
  visit.reply->send(std::move(response));
}

void ApiContext::send_error(const Visit& visit, const ApiError& error) {
  send(visit, error_at(visit.request.path, error), error.code.value_or(""));
}

void ApiContext::answer_with(const VisitPtr& visit,
                             std::function<ApiResult<Json>(const Json& body)> make) {
  work.add([this, visit, make = std::move(make)] {
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

void ApiContext::look_at_engine(const VisitPtr& visit,
                                std::function<HttpResponse(const EngineSnapshot&)> look) {
  const bool accepted =
      engine.inspect([this, visit, look = std::move(look)](const EngineSnapshot& snapshot) {
        auto response = std::make_shared<HttpResponse>(look(snapshot));  // shared: as above
        visit->reply->post([this, visit, response] { send(*visit, std::move(*response)); });
      });
  if (!accepted) send_error(*visit, engine_is_busy());
}

}  // namespace quipu
