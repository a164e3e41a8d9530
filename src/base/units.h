// Byte sizes as people write them: "8GiB", "512MiB", "1.5G", "4096".
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace quipu {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;

// Reads a byte size. Units (any case): none or B; K, KiB = 1024; KB = 1000; M, G, T likewise.
// UNITS: bytes. ERRORS: kInvalidArgument for anything else, negative, or over 2^63.
Result<uint64_t> parse_bytes(std::string_view text);

// "1.5 GiB", "512 B": three significant digits, for people. UNITS: bytes.
std::string format_bytes(uint64_t bytes);

// Rounds up to a multiple of `unit`. REQUIRES: unit > 0 and no overflow.
constexpr uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}
constexpr uint64_t ceil_div(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit; }

}  // namespace quipu
