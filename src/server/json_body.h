// Request bodies as JSON: limits before parsing, and fields read with errors that name them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"

namespace quipu {

struct JsonLimits {
  int depth_max = 64;
  // The parser looks a key up among those of its object one by one: this bounds the square.
  int members_max = 1024;
};

// The body as one JSON object. Checks UTF-8, depth and members per object before anything is
// allocated for them. ERRORS: 400 with the place.
ApiResult<Json> parse_json_object(std::string_view body, const JsonLimits& limits = {});

// Reads the fields of an object. The first thing that is wrong is kept as error(); reading goes on,
// so that callers check once. null counts as absent.
class Fields {
 public:
  // `path`: of the object inside the request, such as "messages[2]"; empty for the request itself.
  explicit Fields(const Json& object, std::string path = "")
      : object_(object), path_(std::move(path)) {}

  // nullptr when absent.
  const Json* value(std::string_view name) const;
  std::optional<bool> boolean(std::string_view name);
  std::optional<int64_t> integer(std::string_view name, int64_t low, int64_t high);
  std::optional<double> number(std::string_view name, double low, double high);
  std::optional<std::string> text(std::string_view name);
  // Of one or more texts: "stop", or ["a", "b"].
  std::optional<std::vector<std::string>> texts(std::string_view name, size_t count_max);

  // The full name of a field, such as "messages[2].role".
  std::string path_of(std::string_view name) const;
  void fail(ApiError error) {
    if (!error_.has_value()) error_ = std::move(error);
  }
  const std::optional<ApiError>& error() const { return error_; }

 private:
  void expected(std::string_view name, const std::string& what, const Json& found);

  const Json& object_;
  std::string path_;
  std::optional<ApiError> error_;
};

// What a value is, for messages: "a string", "an array", ...
std::string json_kind(const Json& value);

}  // namespace quipu
