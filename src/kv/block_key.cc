#include "kv/block_key.h"

#include <openssl/evp.h>

#include <memory>

#include "base/check.h"

namespace quipu {

namespace {

// One SHA-256 over several runs of bytes. The context is reused: blocks are hashed by the thousand.
class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    QUIPU_CHECK(context_ != nullptr, "no memory for a hash context");
  }

  void begin() {
    QUIPU_CHECK(EVP_DigestInit_ex(context_.get(), algorithm(), nullptr) == 1,
                "SHA-256 is not available");
  }
  void add(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  // Each part with its length before it, so that ("ab", "c") and ("a", "bc") differ.
  void add_text(std::string_view text) {
    const uint64_t length = text.size();
    add(&length, sizeof length);
    add(text.data(), text.size());
  }
  BlockKey finish() {
    BlockKey key;
    unsigned int bytes = 0;
    EVP_DigestFinal_ex(context_.get(), key.bytes.data(), &bytes);
    QUIPU_CHECK(bytes == key.bytes.size(), "SHA-256 gave {} bytes", bytes);
    return key;
  }

 private:
  static const EVP_MD* algorithm() {
    // Fetched once: OpenSSL 3 looks implicit algorithms up at every use, which costs more than the
    // hash.
    static EVP_MD* const fetched = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    return fetched;
  }

  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string BlockKey::to_hex() const {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : bytes) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

BlockKey root_key(std::string_view fingerprint, std::string_view salt) {
  Sha256 hash;
  hash.begin();
  hash.add_text("quipu kv 1");
  hash.add_text(fingerprint);
  hash.add_text(salt);
  return hash.finish();
}

BlockKey block_key(const BlockKey& parent, std::span<const TokenId> tokens) {
  thread_local Sha256 hash;
  hash.begin();
  hash.add(parent.bytes.data(), parent.bytes.size());
  hash.add(tokens.data(), tokens.size_bytes());
  return hash.finish();
}

}  // namespace quipu
