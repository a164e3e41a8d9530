// Where the keys and values of one layer lie inside a KV block: shared by the cache, which counts
// the bytes, and by the kernels, which read and write them.
//
// A block holds `block_tokens` tokens for every layer of its group, layer after layer; a layer
// holds its KV heads one after another; a head holds its keys, then its values:
//
//   block   | layer 0                                   | layer 1 ...
//   layer   | head 0                | head 1            | ...
//   head    | K tile 0 | K tile 1 | ... | V (64-byte aligned) | scales, means | padding to 64 bytes
//
//   K tile  16 tokens side by side, so that one vector load gives one element (or four) of 16
//           tokens and the dot products of 16 tokens need no horizontal sums:
//             f32:  [key_dim][16] f32
//             bf16: [key_dim / 2][16][2] bf16 (pairs, as vdpbf16ps takes them; odd dims are padded)
//             int8: [key_dim / 4][16][4] codes (quads, as vpdpbusd takes them; the last is padded)
//             int4: for each group of 32 elements: scales and minima, bf16 [2][16]; then
//                   [quads / 2][16][4] bytes, each with a code of an even quad in its low half and
//                   one of the next quad in its high half
//   V         runs of one token or more, one run after another; lanes run along value_dim
//             f32:  [block_tokens][value_dim] f32: runs of one token
//             bf16: [block_tokens / 2][value_dim][2] bf16: pairs of tokens
//             int8: [block_tokens / 4][value_dim][4] codes: quads of tokens
//             int4: [block_tokens / 8][value_dim][4] bytes, two quads of tokens in each
//   scales    int8: [2][block_tokens] bf16: of the keys, then of the values
//             int4: scales, then minima of the values, [2][groups of 64][block_tokens] bf16
//   means     int4: of the keys, for each tile: int8 codes [key_dim, padded to quads]; then bf16
//                   scales [tiles]
//
// int8: a code c from 1 to 255 stands for (c - 128) * scale; one scale for each token and head.
//
// int4: a code c from 0 to 15 stands for minimum + c * scale, for each token and group. A key is
// rotated first (Hadamard, on runs of the largest power of two that divides key_dim; so is the
// query, and products stay the same), and the mean of the 16 tokens before its tile is taken off:
// of tokens that were stored before, as they were stored, so that a token's codes depend on nothing
// that comes later, and are final when written. docs/KV_FORMATS.md has the figures behind it.
//
// Heads of fewer than kKvCodedKeyDim elements have their keys in bf16 in int8 and int4, too: scales
// would eat up what codes save there, and the scores of so few products bear no more rounding.
//
// Codes are made against the rounded scale and minimum, which are rounded outwards, so that no code
// overflows.
//
// make_kv_layer_layout() is the one function that computes these sizes; the block pool, `inspect`,
// metrics and documentation all use it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace quipu {

inline constexpr int kKvTileTokens = 16;
inline constexpr int kKvKeyGroup = 32;    // int4: elements of a key that share a scale
inline constexpr int kKvValueGroup = 64;  // and of a value
inline constexpr int kKvCodedKeyDim = 16;  // shorter keys are never codes

// Counts up when the bytes of a block change their meaning: part of every block's key.
inline constexpr int kKvLayoutVersion = 3;

enum class KvFormat : uint8_t { kF32, kBF16, kInt8, kInt4 };

inline constexpr std::array kKvFormats = {KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8,
                                          KvFormat::kInt4};

std::string_view kv_format_name(KvFormat format);
std::optional<KvFormat> kv_format_from_name(std::string_view name);
// "f32, bf16, ...", for messages.
std::string kv_format_names();

// Whether keys and values are integer codes, which attention multiplies as such.
inline bool kv_format_has_codes(KvFormat format) { return format >= KvFormat::kInt8; }

struct KvLayerLayout {
  KvFormat format = KvFormat::kF32;      // what was asked for
  KvFormat key_format = KvFormat::kF32;  // what it means for keys: bf16 where codes do not pay
  int kv_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
  int block_tokens = 0;  // a multiple of kKvTileTokens

  // UNITS: bytes. Offsets are from the start of a head.
  size_t key_tile_bytes = 0;      // one tile of 16 tokens
  size_t value_offset = 0;        // a multiple of 64
  size_t value_run_tokens = 0;    // 1 (f32), 2 (bf16), 4 (int8) or 8 (int4)
  size_t value_run_bytes = 0;     // of so many tokens
  size_t key_scale_offset = 0;    // int8 keys
  size_t value_scale_offset = 0;  // int8, int4
  size_t value_min_offset = 0;    // int4
  size_t key_mean_offset = 0;     // int4 keys: codes
  size_t key_mean_bytes = 0;      // int4 keys: the codes of one tile's mean
  size_t key_mean_scale_offset = 0;
  size_t used_bytes = 0;          // of a head, without the padding between its parts
  size_t head_bytes = 0;          // a multiple of 64
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
