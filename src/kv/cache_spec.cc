#include "kv/cache_spec.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/units.h"

namespace quipu {

namespace {

// The group of a lifetime, made when it is new. The one that keeps everything goes first.
KvGroupSpec& group_of(KvCacheSpec& spec, const KvLifetime& lifetime) {
  for (KvGroupSpec& group : spec.groups) {
    if (group.lifetime == lifetime) return group;
  }
  const auto at = lifetime.is_windowed() ? spec.groups.end() : spec.groups.begin();
  KvGroupSpec group;
  group.lifetime = lifetime;
  group.block_tokens = spec.block_tokens;
  return *spec.groups.insert(at, std::move(group));
}

}  // namespace

KvCacheSpec make_kv_cache_spec(std::span<const KvLayerShape> layers, const KvFormats& formats,
                               int block_tokens) {
  QUIPU_CHECK(block_tokens >= 16 && block_tokens <= 256 &&
                  std::has_single_bit(static_cast<unsigned>(block_tokens)),
              "block_tokens {}", block_tokens);
  KvCacheSpec spec;
  spec.block_tokens = block_tokens;
  for (const KvLayerShape& shape : layers) {
    QUIPU_CHECK(shape.lifetime.window >= 0 && shape.lifetime.sinks >= 0 &&
                    (shape.lifetime.sinks == 0 || shape.lifetime.is_windowed()),
                "a window of {} with {} sinks", shape.lifetime.window, shape.lifetime.sinks);
    group_of(spec, shape.lifetime);
  }
  const std::vector<KvFormat> by_layer = formats.resolve(static_cast<int>(layers.size()));
  for (size_t i = 0; i < layers.size(); ++i) {
    const KvLayerShape& shape = layers[i];
    KvGroupSpec& group = group_of(spec, shape.lifetime);
    const KvLayerLayout layout = make_kv_layer_layout(by_layer[i], shape.kv_heads, shape.key_dim,
                                                      shape.value_dim, block_tokens);
    spec.layers.push_back(
        {static_cast<int>(&group - spec.groups.data()), static_cast<int>(group.layers.size())});
    group.layers.push_back({layout, group.block_bytes});
    group.block_bytes += layout.layer_bytes;
  }
  return spec;
}

size_t KvGroupSpec::bytes_per_token() const {
  size_t bytes = 0;
  for (const KvLayerView& layer : layers) {
    bytes += static_cast<size_t>(layer.layout.kv_heads) * layer.layout.used_bytes;
  }
  return ceil_div(bytes, static_cast<uint64_t>(block_tokens));
}

std::string KvCacheSpec::formats() const {
  std::vector<KvFormat> by_layer;
  for (const KvLayerPlace& place : layers) {
    const KvGroupSpec& group = groups[static_cast<size_t>(place.group)];
    by_layer.push_back(group.layers[static_cast<size_t>(place.index)].layout.format);
  }
  return kv_formats_by_layer(by_layer);
}

size_t KvCacheSpec::bytes_per_token() const {
  size_t bytes = 0;
  for (const KvGroupSpec& group : groups) bytes += group.bytes_per_token();
  return bytes;
}

size_t KvCacheSpec::block_bytes() const {
  size_t bytes = 0;
  for (const KvGroupSpec& group : groups) bytes += group.block_bytes;
  return bytes;
}

int64_t blocks_held_max(const KvLifetime& lifetime, int block_tokens, int64_t tokens, int chunk) {
  const int64_t all = (tokens + block_tokens - 1) / block_tokens;
  if (!lifetime.is_windowed()) return all;
  // The chunk's first token sees window - 1 tokens before it.
  const int64_t span = int64_t{lifetime.window} - 1 + chunk;
  return std::min(
      all, sink_blocks(lifetime, block_tokens) + (span + block_tokens - 1) / block_tokens + 1);
}

uint64_t KvCacheSpec::sequence_bytes(int64_t tokens, int chunk) const {
  uint64_t bytes = 0;
  for (const KvGroupSpec& group : groups) {
    bytes += static_cast<uint64_t>(blocks_held_max(group.lifetime, block_tokens, tokens, chunk)) *
             group.block_bytes;
  }
  return bytes;
}

std::vector<int64_t> divide_kv_bytes(const KvCacheSpec& spec, uint64_t bytes, int64_t context,
                                     int chunk) {
  int64_t tokens = context;
  if (spec.sequence_bytes(context, chunk) > bytes) {
    int64_t fits = 0, too_many = context;  // the largest number of tokens whose blocks fit
    while (too_many - fits > 1) {
      const int64_t middle = fits + (too_many - fits) / 2;
      (spec.sequence_bytes(middle, chunk) <= bytes ? fits : too_many) = middle;
    }
    tokens = fits;
  }
  const uint64_t rest = bytes - spec.sequence_bytes(tokens, chunk);
  const int64_t shared = std::min(context, kSharedSequenceTokens);
  const uint64_t unit = spec.sequence_bytes(shared, chunk);
  std::vector<int64_t> blocks;
  for (const KvGroupSpec& group : spec.groups) {
    // rest * (the group's part of a unit) / (bytes of its block), without an overflow.
    const auto of_unit =
        static_cast<uint64_t>(blocks_held_max(group.lifetime, spec.block_tokens, shared, chunk));
    const uint64_t share = rest / unit * of_unit + rest % unit * of_unit / unit;
    blocks.push_back(blocks_held_max(group.lifetime, spec.block_tokens, tokens, chunk) +
                     static_cast<int64_t>(share));
  }
  return blocks;
}

}  // namespace quipu
