// Names from untrusted files, made fit for messages and terminals.
#pragma once

#include <string>
#include <string_view>

namespace quipu {

// `name` with invalid UTF-8 repaired, control characters (those of two bytes too) as '?', cut after
// 100 bytes.
std::string printable(std::string_view name);

// Bytes that need not be text: what is not printable ASCII as \xNN.
std::string escaped_bytes(std::string_view bytes);

}  // namespace quipu
