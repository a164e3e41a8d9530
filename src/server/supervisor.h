// What a service manager hears of the server, when one started it.
#pragma once

#include <string_view>

namespace quipu {

// Sends a state such as "READY=1" to the datagram socket that NOTIFY_SOCKET names; nothing without
// one. A manager that does not listen is no reason to fail.
// SOURCE: sd_notify(3), section "Notes": the protocol.
void notify_supervisor(std::string_view state);

}  // namespace quipu
