// Where the keys and values of one layer lie inside a KV block: shared by the cache, which counts
// the bytes, and by the kernels, which read and write them.
//
// A block holds `block_tokens` tokens for every layer of its group, layer after layer; a layer
// holds its KV heads one after another; a head holds its keys, then its values:
//
//   block   | layer 0                                   | layer 1 ...
//   layer   | head 0                | head 1            | ...
//   head    | K tile 0 | K tile 1 | ... | V row 0 | V row 1 | ... (padded to 64 bytes)
//
//   K tile  16 tokens side by side, so that one vector load gives one element of 16 tokens and the
//           dot products of 16 tokens need no horizontal sums:
//             f32:  [key_dim][16] f32
//             bf16: [key_dim / 2][16][2] bf16 (pairs, as vdpbf16ps takes them; odd dims are padded)
//   V       row-major, [block_tokens][value_dim]: lanes run along value_dim, tokens add in order.
//
// make_kv_layer_layout() is the one function that computes these sizes; the block pool, `inspect`,
// metrics and documentation all use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace quipu {

inline constexpr int kKvTileTokens = 16;

// Counts up when the bytes of a block change their meaning: part of every block's key.
inline constexpr int kKvLayoutVersion = 1;

enum class KvFormat : uint8_t { kF32, kBF16 };

std::string_view kv_format_name(KvFormat format);
std::optional<KvFormat> kv_format_from_name(std::string_view name);

struct KvLayerLayout {
  KvFormat format = KvFormat::kF32;
  int kv_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
  int block_tokens = 0;  // a multiple of kKvTileTokens

  // UNITS: bytes, all multiples of 64 but value_row_bytes and the tile's inner strides.
  size_t key_tile_bytes = 0;   // one tile of 16 tokens
  size_t value_row_bytes = 0;  // one token
  size_t value_offset = 0;     // from the start of a head
  size_t head_bytes = 0;
  size_t layer_bytes = 0;
};

// REQUIRES: positive dimensions; block_tokens a multiple of kKvTileTokens.
KvLayerLayout make_kv_layer_layout(KvFormat format, int kv_heads, int key_dim, int value_dim,
                                   int block_tokens);

// One layer of the pool as a kernel sees it.
struct KvLayerView {
  KvLayerLayout layout;
  size_t offset_in_block = 0;  // UNITS: bytes
};

// The pool of one stream group as a kernel sees it.
// OWNS: nothing; valid during one step.
struct PagedKvView {
  std::byte* base = nullptr;  // block 0
  size_t block_bytes = 0;     // from one block to the next
  int block_tokens = 0;
  const KvLayerView* layers = nullptr;  // SHAPE: [num_layers]
  int num_layers = 0;
};

// How long the layers of a stream group need a token's keys and values: for ever (window 0), or
// while it is one of the last `window` tokens. The first `sinks` tokens of a window stay.
struct KvLifetime {
  int32_t window = 0;  // UNITS: tokens, the query's own included
  int32_t sinks = 0;   // UNITS: tokens; only with a window

  bool is_windowed() const { return window > 0; }
  // The first token past the sinks that the token at `position` sees. UNITS: tokens.
  int64_t first_seen(int64_t position) const {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
  bool operator==(const KvLifetime&) const = default;
};

// The pool that holds a layer's keys and values, and which of the pool's layers it is.
struct KvLayerPlace {
  int group = 0;
  int index = 0;
};

struct KvGroupView {
  PagedKvView kv;
  KvLifetime lifetime;
};

// The whole cache as the model sees it; it gets these plain structs and never the cache itself.
// OWNS: nothing; valid during one step.
struct KvCacheView {
  std::span<const KvGroupView> groups;
  std::span<const KvLayerPlace> layers;  // SHAPE: [layers of the model]
};

}  // namespace quipu
