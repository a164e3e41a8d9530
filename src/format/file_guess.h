// What a file that is not the expected one seems to be.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace quipu {

// How much of a file's beginning a guess looks at. UNITS: bytes.
inline constexpr uint64_t kFileGuessBytes = 64;

// A clause for a message, beginning with "; ", that says what a file beginning with `head` seems to
// be and what to do: an archive, a web page, a Git LFS pointer, another format of weights. Empty
// when it looks like nothing known. `head`: its first kFileGuessBytes, or all when it has fewer.
std::string file_guess(std::string_view head);

}  // namespace quipu
