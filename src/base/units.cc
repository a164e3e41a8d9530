#include "base/units.h"

#include <cctype>
#include <cmath>
#include <cstdlib>

namespace quipu {

namespace {

// The multiplier of a unit suffix, or 0 when it is not one.
double unit_factor(std::string_view unit) {
  std::string lower;
  for (char c : unit)
    lower.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  if (lower.empty() || lower == "b") return 1;
  constexpr std::string_view kPrefixes = "kmgt";
  const size_t power = kPrefixes.find(lower[0]);
  if (power == std::string_view::npos) return 0;
  const std::string_view rest = std::string_view(lower).substr(1);
  if (rest.empty() || rest == "ib") return std::pow(1024.0, static_cast<double>(power + 1));
  if (rest == "b") return std::pow(1000.0, static_cast<double>(power + 1));
  return 0;
}

}  // namespace

Result<uint64_t> parse_bytes(std::string_view text) {
  const std::string owned(text);
  char* end = nullptr;
  const double number = std::strtod(owned.c_str(), &end);
  std::string_view unit(end);
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  const double factor = unit_factor(unit);
  const double bytes = number * factor;
  const bool starts_with_digit =
      !owned.empty() && (std::isdigit(static_cast<unsigned char>(owned[0])) || owned[0] == '.');
  if (end == owned.c_str() || !starts_with_digit || factor == 0 || !(bytes < 9.2e18)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'{}' is not a size; write a number and a unit, such as 8GiB, 512MiB or 4096",
                      text);
  }
  return static_cast<uint64_t>(bytes);
}

std::string format_bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  const int digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, digits, kUnits[unit]);
}

}  // namespace quipu
