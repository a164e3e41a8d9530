#include "format/json.h"

#include <set>

#include "base/units.h"
#include "format/printable.h"

namespace quipu {

namespace {

// Deepest nesting of brackets outside strings, and where a limit is first passed.
std::optional<size_t> first_too_deep(std::string_view text, int depth_max) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > depth_max) return i;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return std::nullopt;
}

}  // namespace

Result<Json> parse_json_object(std::string_view text, std::string_view file,
                               const JsonLimits& limits) {
  if (text.size() > limits.bytes_max) {
    return make_error(ErrorCode::kResourceExhausted, "{}: {} of JSON are more than the limit of {}",
                      file, format_bytes(text.size()), format_bytes(limits.bytes_max));
  }
  if (const auto offset = first_too_deep(text, limits.depth_max)) {
    return make_error(ErrorCode::kCorruptData, "{}: JSON nests deeper than {} levels at offset {}",
                      file, limits.depth_max, *offset);
  }
  std::vector<std::set<std::string>> open_objects;
  std::optional<std::string> duplicate;
  const auto note_keys = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event == Json::parse_event_t::key &&
        !open_objects.back().insert(parsed.get_ref<const std::string&>()).second) {
      duplicate = parsed.get<std::string>();
    }
    return true;
  };
  Json parsed;
  try {
    parsed = Json::parse(text, note_keys);
  } catch (const nlohmann::json::exception& error) {
    return make_error(ErrorCode::kCorruptData, "{}: not valid JSON: {}", file,
                      printable(error.what()));
  }
  if (duplicate)
    return make_error(ErrorCode::kCorruptData, "{}: the key '{}' appears twice", file,
                      printable(*duplicate));
  if (!parsed.is_object()) {
    return make_error(ErrorCode::kCorruptData, "{}: expected a JSON object, found {}", file,
                      describe_json(parsed));
  }
  return parsed;
}

std::string describe_json(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::boolean: return value.get<bool>() ? "true" : "false";
    case Json::value_t::string:
      return fmt::format("the string '{}'", printable(value.get_ref<const std::string&>()));
    case Json::value_t::number_integer: return fmt::format("the number {}", value.get<int64_t>());
    case Json::value_t::number_unsigned: return fmt::format("the number {}", value.get<uint64_t>());
    case Json::value_t::number_float: return fmt::format("the number {}", value.get<double>());
    case Json::value_t::array: return fmt::format("an array of {}", value.size());
    case Json::value_t::object: return fmt::format("an object of {} keys", value.size());
    default: return "something else";
  }
}

const Json* JsonReader::find(const char* key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

bool JsonReader::is_null(const char* key) const {
  const auto found = object_->find(key);
  return found != object_->end() && found->is_null();
}

Status JsonReader::mistyped(const char* key, std::string_view expected, const Json& found) const {
  return make_error(ErrorCode::kCorruptData, "{}: '{}': expected {}, found {}", file_, name(key),
                    expected, describe_json(found));
}

Result<std::optional<int64_t>> JsonReader::get_int(const char* key, int64_t min,
                                                   int64_t max) const {
  const Json* value = find(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::string expected = fmt::format("an integer from {} to {}", min, max);
  if (value->is_number_unsigned()) {
    if (value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
      return mistyped(key, expected, *value);
  } else if (!value->is_number_integer()) {
    return mistyped(key, expected, *value);
  }
  const int64_t number = value->get<int64_t>();
  if (number < min || number > max) return mistyped(key, expected, *value);
  return std::optional<int64_t>(number);
}

Result<std::optional<double>> JsonReader::get_number(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::optional<double>();
  if (!value->is_number()) return mistyped(key, "a number", *value);
  return std::optional<double>(value->get<double>());
}

Result<std::optional<bool>> JsonReader::get_bool(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return mistyped(key, "true or false", *value);
  return std::optional<bool>(value->get<bool>());
}

Result<std::optional<std::string>> JsonReader::get_string(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return mistyped(key, "a string", *value);
  return std::optional<std::string>(value->get<std::string>());
}

Result<std::vector<int64_t>> JsonReader::get_int_or_ints(const char* key, int64_t min,
                                                         int64_t max) const {
  const Json* value = find(key);
  std::vector<int64_t> numbers;
  if (value == nullptr) return numbers;
  if (!value->is_array()) {
    QUIPU_ASSIGN_OR_RETURN(const auto number, get_int(key, min, max));
    numbers.push_back(*number);
    return numbers;
  }
  for (const Json& element : *value) {
    const Json wrapped = {{"element", element}};
    const auto number = JsonReader(wrapped, file_).get_int("element", min, max);
    if (!number.ok() || !number.value()) {
      return mistyped(key, fmt::format("integers from {} to {}", min, max), element);
    }
    numbers.push_back(**number);
  }
  return numbers;
}

Result<std::optional<std::vector<double>>> JsonReader::get_numbers(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::optional<std::vector<double>>();
  if (!value->is_array()) return mistyped(key, "an array of numbers", *value);
  std::vector<double> numbers;
  for (const Json& element : *value) {
    if (!element.is_number()) return mistyped(key, "an array of numbers", element);
    numbers.push_back(element.get<double>());
  }
  return std::optional(std::move(numbers));
}

Result<std::optional<std::vector<std::string>>> JsonReader::get_strings(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::optional<std::vector<std::string>>();
  if (!value->is_array()) return mistyped(key, "an array of strings", *value);
  std::vector<std::string> strings;
  for (const Json& element : *value) {
    if (!element.is_string()) return mistyped(key, "an array of strings", element);
    strings.push_back(element.get<std::string>());
  }
  return std::optional(std::move(strings));
}

Result<std::optional<JsonReader>> JsonReader::get_object(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::optional<JsonReader>();
  if (!value->is_object()) return mistyped(key, "an object", *value);
  return std::optional<JsonReader>(JsonReader(*value, file_, name(key)));
}

Result<int64_t> JsonReader::require_int(const char* key, int64_t min, int64_t max) const {
  QUIPU_ASSIGN_OR_RETURN(const auto value, get_int(key, min, max));
  if (value) return *value;
  return make_error(ErrorCode::kCorruptData,
                    "{}: '{}' is missing (expected an integer from {} to {})", file_, name(key),
                    min, max);
}

}  // namespace quipu
