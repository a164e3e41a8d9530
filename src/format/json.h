// JSON from untrusted files: bounded size and nesting, no duplicate keys, errors instead of
// exceptions; and typed look-ups whose errors name file and key.
// THREADS: pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace quipu {

// A map-backed object: look-ups stay fast when a hostile file has a million keys.
using Json = nlohmann::json;

struct JsonLimits {
  uint64_t bytes_max;
  int depth_max;
};

// The object in `text`. ERRORS: kCorruptData with the offset for text that is not JSON, is not an
// object, is not UTF-8, repeats a key, or nests too deeply; kResourceExhausted when it is too long.
Result<Json> parse_json_object(std::string_view text, std::string_view file,
                               const JsonLimits& limits);

// What a value is, for messages: "a string", "the number 3".
std::string describe_json(const Json& value);

// An object of a JSON file with typed members. A null member counts as absent.
// OWNS: nothing: the Json must outlive it.
class JsonReader {
 public:
  JsonReader(const Json& object, std::string file, std::string path = "")
      : object_(&object), file_(std::move(file)), path_(std::move(path)) {}

  bool has(const char* key) const { return find(key) != nullptr; }
  bool is_null(const char* key) const;  // the member is there, and is null
  const Json* find(const char* key) const;
  const std::string& file() const { return file_; }

  // ERRORS: kCorruptData when the member is of another type or out of range.
  Result<std::optional<int64_t>> get_int(const char* key, int64_t min, int64_t max) const;
  Result<std::optional<double>> get_number(const char* key) const;
  Result<std::optional<bool>> get_bool(const char* key) const;
  Result<std::optional<std::string>> get_string(const char* key) const;
  // One integer or an array of them, as config files write eos_token_id.
  Result<std::vector<int64_t>> get_int_or_ints(const char* key, int64_t min, int64_t max) const;
  Result<std::optional<std::vector<double>>> get_numbers(const char* key) const;
  Result<std::optional<std::vector<std::string>>> get_strings(const char* key) const;
  // A member that is an object, as a reader of its own.
  Result<std::optional<JsonReader>> get_object(const char* key) const;

  // ERRORS: as above, and kCorruptData when absent.
  Result<int64_t> require_int(const char* key, int64_t min, int64_t max) const;

 private:
  Status mistyped(const char* key, std::string_view expected, const Json& found) const;
  std::string name(const char* key) const { return path_.empty() ? key : path_ + "." + key; }

  const Json* object_;
  std::string file_;
  std::string path_;
};

}  // namespace quipu
