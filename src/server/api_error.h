// ApiError: what was wrong with a request, in OpenAI's form.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/status.h"
#include "server/http.h"

namespace quipu {

using Json = nlohmann::ordered_json;

// Messages say what was expected and found, never a path or a key.
struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::optional<std::string> param;
  std::optional<std::string> code;
  std::optional<int> retry_after_s;
};

// A value, or the error to answer with.
template <typename T>
using ApiResult = std::variant<T, ApiError>;

// 400 about one parameter.
ApiError bad_parameter(std::string_view param, std::string message,
                       std::string_view code = "invalid_value");
// 501 for something that the API has and quipu does not. `param` may be empty.
ApiError not_supported(std::string_view param, std::string_view what);
// 503: the server is shutting down.
ApiError shutting_down();
// Of a lower layer's refusal. Internal failures are told without their message, which may name
// files.
ApiError api_error_from(const Status& status);

// {"error": {"message", "type", "param", "code"}}.
Json error_to_json(const ApiError& error);
HttpResponse error_response(const ApiError& error);
HttpResponse json_response(const Json& json);
// As one line; invalid UTF-8 is replaced.
std::string dump(const Json& json);

}  // namespace quipu
