#include "base/utf8.h"

#include <algorithm>
#include <cstdint>

namespace quipu {

namespace {

// What a lead byte promises: the length of its character and the range of its second byte.
struct Lead {
  int length;  // 0: not a lead byte
  uint8_t second_min, second_max;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Bytes at `at` that agree with one character so far; `complete` when all of it is there.
struct Scan {
  size_t bytes;
  bool complete;
};

Scan scan_character(std::string_view text, size_t at) {
  const Lead lead = lead_of(static_cast<uint8_t>(text[at]));
  if (lead.length == 0) return {0, false};
  size_t n = 1;
  while (n < static_cast<size_t>(lead.length) && at + n < text.size()) {
    const uint8_t byte = static_cast<uint8_t>(text[at + n]);
    const uint8_t low = n == 1 ? lead.second_min : 0x80, high = n == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) break;
    ++n;
  }
  return {n, n == static_cast<size_t>(lead.length)};
}

}  // namespace

size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Scan scan = scan_character(text, at);
    if (!scan.complete) break;
    at += scan.bytes;
  }
  return at;
}

size_t incomplete_utf8_suffix(std::string_view text) {
  const size_t look_back = std::min<size_t>(3, text.size());
  for (size_t n = 1; n <= look_back; ++n) {
    const Scan scan = scan_character(text, text.size() - n);
    if (scan.bytes == n && !scan.complete) return n;
    if (scan.complete) return 0;
  }
  return 0;
}

std::string repair_utf8(std::string_view text) {
  std::string repaired;
  repaired.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const Scan scan = scan_character(text, at);
    if (scan.complete) {
      repaired.append(text.substr(at, scan.bytes));
      at += scan.bytes;
    } else {
      repaired += "\xEF\xBF\xBD";
      at += std::max<size_t>(scan.bytes, 1);
    }
  }
  return repaired;
}

}  // namespace quipu
