#include "kv/block_key.h"

// SHA256_Init and its kin are what OpenSSL 3 advises against, because providers do not reach them.
// Its EVP functions allocate at every hash, which for 160 bytes costs as much as the hash.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "base/check.h"

namespace quipu {

namespace {

// One SHA-256 over several runs of bytes.
class Sha256 {
 public:
  Sha256() { QUIPU_CHECK(SHA256_Init(&context_) == 1, "SHA-256 is not available"); }

  void add(const void* data, size_t bytes) { SHA256_Update(&context_, data, bytes); }
  // Each part with its length before it, so that ("ab", "c") and ("a", "bc") differ.
  void add_text(std::string_view text) {
    const uint64_t length = text.size();
    add(&length, sizeof length);
    add(text.data(), text.size());
  }
  BlockKey finish() {
    BlockKey key;
    static_assert(sizeof key.bytes == SHA256_DIGEST_LENGTH);
    SHA256_Final(key.bytes.data(), &context_);
    return key;
  }

 private:
  SHA256_CTX context_;
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
  hash.add_text("quipu kv 1");
  hash.add_text(fingerprint);
  hash.add_text(salt);
  return hash.finish();
}

BlockKey block_key(const BlockKey& parent, std::span<const TokenId> tokens) {
  Sha256 hash;
  hash.add(parent.bytes.data(), parent.bytes.size());
  hash.add(tokens.data(), tokens.size_bytes());
  return hash.finish();
}

}  // namespace quipu
