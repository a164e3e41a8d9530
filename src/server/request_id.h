// RequestIds: a name for each HTTP request, for logs and the X-Request-Id header.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace quipu {

// THREADS: the server's.
class RequestIds {
 public:
  // The client's own name when it is short and plain ([A-Za-z0-9._-], at most 64); else a new one,
  // drawn at random: a number that counts up would tell each tenant how much the others ask.
  std::string next(std::string_view wanted);

 private:
  // Of the system's random numbers, drawn together: one by one they are what an answer to /health
  // costs most.
  std::array<uint64_t, 32> drawn_{};
  size_t left_ = 0;
};

}  // namespace quipu
