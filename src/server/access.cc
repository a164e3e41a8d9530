#include "server/access.h"

#include <fmt/chrono.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <set>
#include <sstream>

namespace quipu {

ApiKeys::Digest ApiKeys::digest_of(std::string_view key) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

Result<ApiKey> ApiKey::parse(std::string_view line) {
  constexpr size_t kNameBytesMax = 64;
  std::istringstream words{std::string(line)};
  ApiKey key;
  words >> key.key;
  for (std::string word; words >> word;) {
    const size_t at = std::min(word.find('='), word.size());
    const std::string name = word.substr(0, at);
    const std::string value = at < word.size() ? word.substr(at + 1) : "";
    if (name == "tenant") {
      const bool is_plain = std::all_of(value.begin(), value.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
      });
      if (value.empty() || value.size() > kNameBytesMax || !is_plain || !key.tenant.empty()) {
        return make_error(ErrorCode::kInvalidArgument,
                          "tenant={}; expected one name of up to {} letters, digits, '.', '_', '-'",
                          value, kNameBytesMax);
      }
      key.tenant = value;
    } else if (name == "role" && (value == "user" || value == "operator") && !key.role) {
      key.role = value == "operator" ? Role::kOperator : Role::kUser;
    } else {
      return make_error(ErrorCode::kInvalidArgument,
                        "after the key there is {}; expected tenant=NAME, role=user or "
                        "role=operator, each once",
                        name == "role" ? "'" + word + "'" : "another word");
    }
  }
  return key;
}

std::string tenant_label(std::string_view tenant) {
  constexpr std::string_view kNamed = "tenant=", kUnnamed = "tenant-";
  constexpr size_t kDigitsShown = 8;
  tenant = tenant.substr(0, tenant.find('\n'));
  if (tenant.starts_with(kNamed)) return std::string(tenant.substr(kNamed.size()));
  if (tenant.starts_with(kUnnamed))
    return "key " + std::string(tenant.substr(kUnnamed.size(), kDigitsShown));
  return "";
}

void ApiKeys::add(const ApiKey& key) {
  Entry entry{.digest = digest_of(key.key), .tenant = {}, .role = key.role};
  if (!key.tenant.empty()) {
    entry.tenant = "tenant=" + key.tenant;
  } else {
    // From the key, not from its place in a list: the same key finds its cache after a restart.
    entry.tenant = "tenant-";
    for (size_t i = 0; i < 12; ++i) entry.tenant += fmt::format("{:02x}", entry.digest[i]);
  }
  entry.tenant += "\n";
  entries_.push_back(std::move(entry));
}

int ApiKeys::num_tenants() const {
  std::set<std::string_view> tenants;
  for (const Entry& entry : entries_) tenants.insert(entry.tenant);
  return static_cast<int>(tenants.size());
}

std::optional<Caller> ApiKeys::caller_of(const HttpHead& head) const {
  if (entries_.empty()) return Caller{.tenant = {}, .role = Role::kOperator};
  std::string_view key = head.header("x-api-key");
  constexpr std::string_view kBearer = "bearer ";
  if (const std::string_view given = head.header("authorization"); given.size() > kBearer.size()) {
    const bool is_bearer =
        std::equal(kBearer.begin(), kBearer.end(), given.begin(), [](char a, char b) {
          return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
        });
    if (is_bearer) key = given.substr(kBearer.size());
  }
  const Digest digest = digest_of(key);
  // All of them, so that the time does not tell which one.
  std::optional<size_t> match;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (CRYPTO_memcmp(digest.data(), entries_[i].digest.data(), digest.size()) == 0) match = i;
  }
  if (!match.has_value()) return std::nullopt;
  const Entry& entry = entries_[*match];
  const Role role = num_tenants() == 1 ? Role::kOperator : Role::kUser;
  return Caller{.tenant = entry.tenant, .role = entry.role.value_or(role)};
}

void AccessLog::Close::operator()(std::FILE* file) const {
  if (file != stderr) std::fclose(file);
}

Result<AccessLog> AccessLog::open(const std::string& path) {
  AccessLog log;
  if (path.empty()) return log;
  log.file_.reset(path == "-" ? stderr : std::fopen(path.c_str(), "a"));
  if (log.file_ == nullptr) {
    return make_error(ErrorCode::kIo, "{}: cannot be written: {}", path, std::strerror(errno));
  }
  return log;
}

void AccessLog::write(const Json& fields) {
  if (file_ == nullptr) return;
  const auto now = std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
  const auto ms = now.time_since_epoch().count() % 1000;
  Json line = {{"time", fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                                    fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms)}};
  line.update(fields);
  const std::string text = dump(line) + "\n";
  std::fwrite(text.data(), 1, text.size(), file_.get());
  std::fflush(file_.get());
}

std::string host_name_of(std::string_view host_header) {
  const bool is_v6 = host_header.starts_with("[");
  const size_t end = is_v6 ? std::min(host_header.find(']'), host_header.size())
                           : std::min(host_header.rfind(':'), host_header.size());
  std::string name(host_header.substr(is_v6 ? 1 : 0, is_v6 ? end - 1 : end));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

}  // namespace quipu
