#include "engine/kv_storage.h"

#include "base/check.h"

namespace quipu {

Result<KvStorage> KvStorage::create(Backend& backend, KvCacheSpec spec,
                                    std::span<const int64_t> blocks) {
  QUIPU_CHECK(blocks.size() == spec.groups.size(), "{} pools for {} groups", blocks.size(),
              spec.groups.size());
  KvStorage storage;
  storage.spec_ = std::move(spec);
  for (size_t g = 0; g < blocks.size(); ++g) {
    const KvGroupSpec& group = storage.spec_.groups[g];
    Result<std::unique_ptr<DeviceBuffer>> memory =
        backend.allocate(group.block_bytes * static_cast<size_t>(blocks[g]));
    if (!memory.ok()) return memory.status().with_context("KV cache");
    storage.pools_.push_back({static_cast<int>(blocks[g]), std::move(memory).value()});
    storage.views_.push_back({{.base = storage.pools_.back().memory->data(),
                               .block_bytes = group.block_bytes,
                               .block_tokens = group.block_tokens,
                               .layers = group.layers.data(),
                               .num_layers = static_cast<int>(group.layers.size())},
                              group.lifetime});
  }
  return storage;
}

std::span<std::byte> KvStorage::block(int group, BlockId block) const {
  const PagedKvView& view = views_[static_cast<size_t>(group)].kv;
  return {view.base + static_cast<size_t>(block.value()) * view.block_bytes, view.block_bytes};
}

int KvStorage::element_bytes(int group) const {
  switch (spec_.groups[static_cast<size_t>(group)].layers.front().layout.format) {
    case KvFormat::kF32: return 4;
    case KvFormat::kBF16: return 2;
    default: return 1;
  }
}

int KvStorage::blocks() const {
  int total = 0;
  for (const Pool& pool : pools_) total += pool.blocks;
  return total;
}

size_t KvStorage::bytes() const {
  size_t total = 0;
  for (size_t g = 0; g < pools_.size(); ++g)
    total += spec_.groups[g].block_bytes * static_cast<size_t>(pools_[g].blocks);
  return total;
}

}  // namespace quipu
