#include "server/access.h"

#include <fmt/chrono.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace quipu {

ApiKeys::Digest ApiKeys::digest_of(std::string_view key) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

void ApiKeys::add(std::string_view key) { digests_.push_back(digest_of(key)); }

std::optional<std::string> ApiKeys::tenant_of(const HttpHead& head) const {
  if (digests_.empty()) return std::string();
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
  for (size_t i = 0; i < digests_.size(); ++i) {
    if (CRYPTO_memcmp(digest.data(), digests_[i].data(), digest.size()) == 0) match = i;
  }
  if (!match.has_value()) return std::nullopt;
  // From the key, not from its place in a list: the same key finds its cache again after a restart.
  std::string tenant = "tenant-";
  for (size_t i = 0; i < 12; ++i) tenant += fmt::format("{:02x}", digest[i]);
  return tenant + "\n";
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
