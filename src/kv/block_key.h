// BlockKey: the content identity of a closed block, the same in every process that shares a store.
//
//   key(block) = SHA-256(key(parent), token ids of the block)
//   key(root)  = SHA-256("quipu kv 1", fingerprint, salt)
//
// The root's extras (model fingerprint with rope and KV format; the tenant's salt) reach every
// block through the chain. 256 bits, because a shorter hash lets one tenant forge another's prefix.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/strong_id.h"

namespace quipu {

struct BlockKey {
  std::array<uint8_t, 32> bytes{};
  auto operator<=>(const BlockKey&) const = default;
  std::string to_hex() const;
};

BlockKey root_key(std::string_view fingerprint, std::string_view salt);
BlockKey block_key(const BlockKey& parent, std::span<const TokenId> tokens);

}  // namespace quipu
