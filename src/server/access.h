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

// What a key may see: a user its own requests and what its tenant has in the cache, an operator
// everything, the server's metrics too.
enum class Role { kUser, kOperator };

// A key as it is given at start.
struct ApiKey {
  std::string key;
  std::string tenant;        // a name; empty: the key is a tenant of its own
  std::optional<Role> role;  // nothing: see ApiKeys

  // Of a line of a key file: KEY, then in any order tenant=NAME and role=user or role=operator.
  // ERRORS: kInvalidArgument, without the key in the message.
  static Result<ApiKey> parse(std::string_view line);
};

// Who asks.
struct Caller {
  // Keeps the caches of tenants apart and tells nothing of the key: every salt of the tenant begins
  // with it, and no salt of another one does. Empty: the server has no keys.
  std::string tenant;
  Role role = Role::kUser;

  bool is_operator() const { return role == Role::kOperator; }
  // Whether it may see what belongs to this tenant.
  bool sees(std::string_view other) const { return is_operator() || other == tenant; }
};

// How operators see a tenant: its name, or a few characters that tell keys without a name apart.
std::string tenant_label(std::string_view tenant);

// The keys that open the server. Only digests are kept, and a comparison takes the same time
// whether and wherever a key differs.
//
// A key without a role is a user's, unless all keys are of one tenant: who is alone on a server may
// see all of it, since there is nobody to hide.
// THREADS: immutable after add().
class ApiKeys {
 public:
  void add(const ApiKey& key);
  bool empty() const { return entries_.empty(); }
  int num_tenants() const;

  // Whose key the request has. Nothing when the key is missing or wrong. Without any keys: an
  // operator without a name. Reads `Authorization: Bearer KEY` and `X-Api-Key: KEY`.
  std::optional<Caller> caller_of(const HttpHead& head) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  static Digest digest_of(std::string_view key);

  struct Entry {
    Digest digest{};
    std::string tenant;
    std::optional<Role> role;
  };
  std::vector<Entry> entries_;
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
