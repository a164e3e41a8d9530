// RequestIds: a name for each HTTP request, for logs and the X-Request-Id header.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace quipu {

// THREADS: the server's.
class RequestIds {
 public:
  RequestIds();

  // The client's own name when it is short and plain ([A-Za-z0-9._-], at most 64); else a new one.
  std::string next(std::string_view wanted);

 private:
  uint64_t process_;  // differs from run to run
  uint64_t count_ = 0;
};

}  // namespace quipu
