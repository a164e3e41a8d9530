#include "format/metadata.h"

#include <limits>
#include <type_traits>

namespace quipu {

namespace {

std::optional<int64_t> as_int(const MetadataValue& value) {
  if (const auto* i = std::get_if<int64_t>(&value)) return *i;
  if (const auto* u = std::get_if<uint64_t>(&value)) {
    if (*u <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return static_cast<int64_t>(*u);
  }
  return std::nullopt;
}

std::optional<double> as_double(const MetadataValue& value) {
  if (const auto* d = std::get_if<double>(&value)) return *d;
  if (const auto* u = std::get_if<uint64_t>(&value)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(&value)) return static_cast<double>(*i);
  return std::nullopt;
}

template <typename T>
std::optional<T> get_exactly(const MetadataValue* value) {
  if (value == nullptr) return std::nullopt;
  const T* held = std::get_if<T>(value);
  return held != nullptr ? std::optional<T>(*held) : std::nullopt;
}

Status missing(std::string_view key, std::string_view expected, const MetadataValue* found) {
  if (found == nullptr) {
    return make_error(ErrorCode::kCorruptData, "metadata key '{}' is missing (expected {})", key,
                      expected);
  }
  return make_error(ErrorCode::kCorruptData, "metadata key '{}': expected {}, found {}", key,
                    expected, describe_metadata_value(*found));
}

}  // namespace

std::string describe_metadata_value(const MetadataValue& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, bool>) return held ? "true" : "false";
        if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, uint64_t>)
          return fmt::format("the integer {}", held);
        if constexpr (std::is_same_v<T, double>) return fmt::format("the number {}", held);
        if constexpr (std::is_same_v<T, std::string>)
          return fmt::format("a string of {} bytes", held.size());
        if constexpr (std::is_same_v<T, std::vector<bool>>)
          return fmt::format("an array of {} bools", held.size());
        if constexpr (std::is_same_v<T, std::vector<int64_t>> ||
                      std::is_same_v<T, std::vector<uint64_t>>) {
          return fmt::format("an array of {} integers", held.size());
        }
        if constexpr (std::is_same_v<T, std::vector<double>>)
          return fmt::format("an array of {} numbers", held.size());
        if constexpr (std::is_same_v<T, std::vector<std::string>>)
          return fmt::format("an array of {} strings", held.size());
      },
      value);
}

void Metadata::set(std::string key, MetadataValue value) {
  const auto [found, inserted] = index_.try_emplace(key, entries_.size());
  if (inserted) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[found->second].second = std::move(value);
  }
}

const MetadataValue* Metadata::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

std::optional<bool> Metadata::get_bool(std::string_view key) const {
  return get_exactly<bool>(find(key));
}

std::optional<int64_t> Metadata::get_int(std::string_view key) const {
  const MetadataValue* value = find(key);
  return value != nullptr ? as_int(*value) : std::nullopt;
}

std::optional<double> Metadata::get_double(std::string_view key) const {
  const MetadataValue* value = find(key);
  return value != nullptr ? as_double(*value) : std::nullopt;
}

std::optional<std::string> Metadata::get_string(std::string_view key) const {
  return get_exactly<std::string>(find(key));
}

std::optional<std::vector<int64_t>> Metadata::get_ints(std::string_view key) const {
  const MetadataValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* signed_values = std::get_if<std::vector<int64_t>>(value)) return *signed_values;
  const auto* unsigned_values = std::get_if<std::vector<uint64_t>>(value);
  if (unsigned_values == nullptr) return std::nullopt;
  std::vector<int64_t> converted;
  converted.reserve(unsigned_values->size());
  for (const uint64_t u : *unsigned_values) {
    if (u > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    converted.push_back(static_cast<int64_t>(u));
  }
  return converted;
}

std::optional<std::vector<double>> Metadata::get_doubles(std::string_view key) const {
  const MetadataValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* doubles = std::get_if<std::vector<double>>(value)) return *doubles;
  const auto ints = get_ints(key);
  if (!ints) return std::nullopt;
  return std::vector<double>(ints->begin(), ints->end());
}

std::optional<std::vector<std::string>> Metadata::get_strings(std::string_view key) const {
  return get_exactly<std::vector<std::string>>(find(key));
}

Result<int64_t> Metadata::require_int(std::string_view key) const {
  if (const auto value = get_int(key)) return *value;
  return missing(key, "an integer", find(key));
}

Result<double> Metadata::require_double(std::string_view key) const {
  if (const auto value = get_double(key)) return *value;
  return missing(key, "a number", find(key));
}

Result<std::string> Metadata::require_string(std::string_view key) const {
  if (auto value = get_string(key)) return *std::move(value);
  return missing(key, "a string", find(key));
}

}  // namespace quipu
