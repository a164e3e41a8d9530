// Who may use the server, and the log of what they did.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "server/api_error.h"

namespace quipu {

// The keys that open the server. Only digests are kept, and a comparison takes the same time
// whether and wherever a key differs.
// THREADS: immutable after add().
class ApiKeys {
 public:
  void add(std::string_view key);
  bool empty() const { return digests_.empty(); }

  // The tenant of the request's key: text that keeps the caches of tenants apart, and tells nothing
  // of the key. Nothing when the key is missing or wrong. Without any keys: the empty tenant.
  // Reads `Authorization: Bearer KEY` and `X-Api-Key: KEY`.
  std::optional<std::string> tenant_of(const HttpHead& head) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  static Digest digest_of(std::string_view key);

  std::vector<Digest> digests_;
};

// One JSON object per line for each request that ended.
// THREADS: the server's.
class AccessLog {
 public:
  // Appends to a file, or writes to stderr when `path` is "-"; nothing when it is empty.
  // ERRORS: kIo.
  static Result<AccessLog> open(const std::string& path);

  void write(const Json& fields);

 private:
  struct Close {
    void operator()(std::FILE* file) const;
  };
  std::unique_ptr<std::FILE, Close> file_;
};

// The host name of a Host header, without the port and in lower case.
std::string host_name_of(std::string_view host_header);

}  // namespace quipu
