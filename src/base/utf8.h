// UTF-8: validation and repair of outside text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quipu {

// Bytes of the longest valid UTF-8 prefix of `text` (text.size() when all of it is valid).
// SOURCE: Unicode 15, table 3-7 (no overlong forms, no surrogates, at most U+10FFFF).
size_t valid_utf8_prefix(std::string_view text);

inline bool is_valid_utf8(std::string_view text) { return valid_utf8_prefix(text) == text.size(); }

// Bytes at the end of `text` that start a character whose rest could still come (0 to 3).
size_t incomplete_utf8_suffix(std::string_view text);

// Every invalid byte replaced by U+FFFD (one per maximal invalid part).
std::string repair_utf8(std::string_view text);

}  // namespace quipu
