// "Did you mean": the candidate nearest to a mistyped word.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace quipu {

// Insertions, deletions, substitutions and swaps of neighbours between the two words.
size_t edit_distance(std::string_view a, std::string_view b);

// The nearest candidate, when it is near enough to be a slip (a third of the word's length, at
// least 1).
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace quipu
