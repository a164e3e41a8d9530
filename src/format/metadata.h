// Metadata: the typed key-value pairs of a model file, under GGUF's names.
//
// A Hugging Face directory is presented under the same names (format/hf_model.h), so that
// everything above reads one vocabulary: "general.architecture", "llama.block_count", ... THREADS:
// immutable after reading, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace quipu {

// GGUF's integers are widened; arrays hold one element type.
using MetadataValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>,
                                   std::vector<int64_t>, std::vector<uint64_t>, std::vector<double>,
                                   std::vector<std::string>>;

// What a value is, for messages: "bool", "integer", "string", "array of 3 strings".
std::string describe_metadata_value(const MetadataValue& value);

class Metadata {
 public:
  // In file order. A later value for the same key replaces the earlier one.
  void set(std::string key, MetadataValue value);

  bool contains(std::string_view key) const { return find(key) != nullptr; }
  const MetadataValue* find(std::string_view key) const;
  const std::vector<std::pair<std::string, MetadataValue>>& entries() const { return entries_; }

  // Typed look-ups: nothing when absent or of another kind. Integers of either sign convert when
  // they fit; doubles accept integers.
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<int64_t> get_int(std::string_view key) const;
  std::optional<double> get_double(std::string_view key) const;
  std::optional<std::string> get_string(std::string_view key) const;
  std::optional<std::vector<int64_t>> get_ints(std::string_view key) const;
  std::optional<std::vector<double>> get_doubles(std::string_view key) const;
  std::optional<std::vector<std::string>> get_strings(std::string_view key) const;

  // As above, but an absent or mistyped key is kCorruptData with the key, expected and found.
  Result<int64_t> require_int(std::string_view key) const;
  Result<double> require_double(std::string_view key) const;
  Result<std::string> require_string(std::string_view key) const;

 private:
  struct KeyHash {
    using is_transparent = void;
    size_t operator()(std::string_view key) const { return std::hash<std::string_view>()(key); }
  };

  std::vector<std::pair<std::string, MetadataValue>> entries_;
  std::unordered_map<std::string, size_t, KeyHash, std::equal_to<>> index_;  // key -> entry
};

}  // namespace quipu
