#include "server/api_error.h"

namespace quipu {

namespace {

Json text_or_null(const std::optional<std::string>& text) {
  return text.has_value() ? Json(*text) : Json(nullptr);
}

}  // namespace

ApiError bad_parameter(std::string_view param, std::string message, std::string_view code) {
  ApiError error;
  error.message = std::move(message);
  if (!param.empty()) error.param = std::string(param);
  error.code = std::string(code);
  return error;
}

ApiError not_supported(std::string_view param, std::string_view what) {
  ApiError error = bad_parameter(param, std::string(what), "not_supported");
  error.status = 501;
  return error;
}

ApiError shutting_down() {
  return {.status = 503,
          .message = "the server is shutting down",
          .type = "server_error",
          .code = "shutting_down",
          .retry_after_s = 5};
}

ApiError api_error_from(const Status& status) {
  switch (status.code()) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kNotFound: return bad_parameter("", status.message());
    case ErrorCode::kUnsupported: return bad_parameter("", status.message(), "not_supported");
    case ErrorCode::kResourceExhausted:
      return bad_parameter("", status.message(), "context_length_exceeded");
    default: break;
  }
  return {.status = 500,
          .message = "the server failed to do this; its log says more",
          .type = "server_error",
          .code = std::string(error_code_name(status.code()))};
}

Json error_to_json(const ApiError& error) {
  return {{"error",
           {{"message", error.message},
            {"type", error.type},
            {"param", text_or_null(error.param)},
            {"code", text_or_null(error.code)}}}};
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

HttpResponse json_response(const Json& json) {
  HttpResponse response;
  response.body = dump(json);
  return response;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response = json_response(error_to_json(error));
  response.status = error.status;
  if (error.retry_after_s.has_value())
    response.headers.emplace_back("Retry-After", std::to_string(*error.retry_after_s));
  return response;
}

}  // namespace quipu
