#include "engine/kv_storage.h"

namespace quipu {

Result<KvStorage> KvStorage::create(Backend& backend, KvCacheSpec spec, int blocks) {
  Result<std::unique_ptr<DeviceBuffer>> memory =
      backend.allocate(spec.block_bytes * static_cast<size_t>(blocks));
  if (!memory.ok()) return memory.status().with_context("KV cache");
  return KvStorage(std::move(spec), blocks, std::move(memory).value());
}

PagedKvView KvStorage::view() const {
  return {.base = memory_->data(),
          .block_bytes = spec_.block_bytes,
          .block_tokens = spec_.block_tokens,
          .layers = spec_.layers.data(),
          .num_layers = static_cast<int>(spec_.layers.size())};
}

}  // namespace quipu
