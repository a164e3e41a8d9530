#include "server/json_body.h"

#include <cmath>

#include "base/utf8.h"

namespace quipu {

namespace {

ApiError bad_json(std::string message) {
  return bad_parameter("", std::move(message), "invalid_json");
}

// Walks over brackets and members without building anything.
std::optional<ApiError> check_shape(std::string_view body, const JsonLimits& limits) {
  std::vector<int> members;  // of the objects and arrays that are open
  bool in_string = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      members.push_back(0);
      if (static_cast<int>(members.size()) > limits.depth_max) {
        return bad_json(fmt::format("the JSON is nested deeper than {} levels at byte {}",
                                    limits.depth_max, i));
      }
    } else if ((c == '}' || c == ']') && !members.empty()) {
      members.pop_back();
    } else if (c == ':' && !members.empty() && ++members.back() > limits.members_max) {
      return bad_json(
          fmt::format("an object has more than {} members at byte {}", limits.members_max, i));
    }
  }
  return std::nullopt;
}

}  // namespace

ApiResult<Json> parse_json_object(std::string_view body, const JsonLimits& limits) {
  if (const size_t valid = valid_utf8_prefix(body); valid != body.size())
    return bad_json(fmt::format("the body is not UTF-8 at byte {}", valid));
  if (std::optional<ApiError> error = check_shape(body, limits)) return std::move(*error);
  try {
    Json json = Json::parse(body);
    if (!json.is_object())
      return bad_json(fmt::format("the body is {}; expected an object", json_kind(json)));
    return json;
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    std::string message = error.what();
    if (const size_t end = message.find("] "); end != std::string::npos) message.erase(0, end + 2);
    return bad_json("the body is not JSON: " + message);
  }
}

std::string json_kind(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::boolean: return "a boolean";
    case Json::value_t::string: return "a string";
    case Json::value_t::array: return "an array";
    case Json::value_t::object: return "an object";
    default: return "a number";
  }
}

std::string Fields::path_of(std::string_view name) const {
  return path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name);
}

const Json* Fields::value(std::string_view name) const {
  const auto it = object_.find(std::string(name));
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void Fields::expected(std::string_view name, const std::string& what, const Json& found) {
  const std::string path = path_of(name);
  const std::string shown = found.is_number() ? found.dump() : json_kind(found);
  fail(bad_parameter(path, fmt::format("'{}' is {}; expected {}", path, shown, what),
                     found.is_number() ? "invalid_value" : "invalid_type"));
}

std::optional<bool> Fields::boolean(std::string_view name) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_boolean()) return found->get<bool>();
  expected(name, "true or false", *found);
  return std::nullopt;
}

std::optional<int64_t> Fields::integer(std::string_view name, int64_t low, int64_t high) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  const std::string range = fmt::format("a whole number from {} to {}", low, high);
  if (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    expected(name, range, *found);
    return std::nullopt;
  }
  int64_t result = 0;
  if (found->is_number_integer()) {
    result = found->get<int64_t>();
  } else if (found->is_number_float() && std::abs(found->get<double>()) < 9e15 &&
             std::nearbyint(found->get<double>()) == found->get<double>()) {
    result = static_cast<int64_t>(found->get<double>());  // some languages write 5 as 5.0
  } else {
    expected(name, range, *found);
    return std::nullopt;
  }
  if (result >= low && result <= high) return result;
  expected(name, range, *found);
  return std::nullopt;
}

std::optional<double> Fields::number(std::string_view name, double low, double high) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_number()) {
    const double result = found->get<double>();
    if (result >= low && result <= high) return result;
  }
  expected(name, fmt::format("a number from {} to {}", low, high), *found);
  return std::nullopt;
}

std::optional<std::string> Fields::text(std::string_view name) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  expected(name, "a string", *found);
  return std::nullopt;
}

std::optional<std::vector<std::string>> Fields::texts(std::string_view name, size_t count_max) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (found->is_string()) return std::vector<std::string>{found->get<std::string>()};
  std::vector<std::string> result;
  bool good = found->is_array() && found->size() <= count_max;
  for (size_t i = 0; good && i < found->size(); ++i) {
    good = (*found)[i].is_string();
    if (good) result.push_back((*found)[i].get<std::string>());
  }
  if (good) return result;
  expected(name, fmt::format("a string, or an array of at most {} strings", count_max), *found);
  return std::nullopt;
}

}  // namespace quipu
