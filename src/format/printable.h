// Names from untrusted files, made fit for messages and terminals.
#pragma once

#include <string>
#include <string_view>

namespace quipu {

// `name` with invalid UTF-8 repaired, control characters as '?', cut after 100 bytes.
std::string printable(std::string_view name);

}  // namespace quipu
