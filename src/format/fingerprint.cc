#include "format/fingerprint.h"

#include <xxhash.h>

#include <algorithm>

namespace quipu {

namespace {

constexpr size_t kWholeBytesMax = 1 << 20;
constexpr size_t kRunBytes = 64 << 10;
constexpr size_t kRuns = 16;

uint64_t hash_value(uint64_t seed, const void* data, size_t bytes) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

uint64_t hash_text(uint64_t seed, std::string_view text) {
  return hash_value(seed + text.size(), text.data(), text.size());
}

uint64_t hash_bytes(uint64_t seed, const std::byte* data, size_t bytes) {
  if (bytes <= kWholeBytesMax) return hash_value(seed, data, bytes);
  for (size_t run = 0; run < kRuns; ++run) {
    const size_t at = (bytes - kRunBytes) * run / (kRuns - 1);  // the last one ends with the tensor
    seed = hash_value(seed, data + at, kRunBytes);
  }
  return seed + bytes;
}

// Vocabulary, names and dates do not change what a layer computes.
bool decides_numbers(std::string_view key) {
  return !key.starts_with("tokenizer.") &&
         (!key.starts_with("general.") || key == "general.architecture");
}

uint64_t hash_metadata(uint64_t seed, const MetadataValue& value) {
  return std::visit(
      [&](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return hash_text(seed, v);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          uint64_t hash = seed;
          for (const std::string& text : v) hash = hash_text(hash, text);
          return hash + v.size();
        } else if constexpr (std::is_same_v<T, std::vector<bool>>) {
          uint64_t hash = seed + v.size();
          for (const bool bit : v) hash = hash * 3 + (bit ? 1 : 0);
          return hash;
        } else if constexpr (std::is_arithmetic_v<T>) {
          return hash_value(seed, &v, sizeof v);
        } else {
          return hash_value(seed + v.size(), v.data(), v.size() * sizeof(v[0]));
        }
      },
      value);
}

}  // namespace

Result<TensorData> FingerprintedFile::read(std::string_view name) const {
  Result<TensorData> tensor = file_->read(name);
  if (!tensor.ok()) return tensor;
  const TensorInfo* info = file_->find(name);
  uint64_t hash = hash_text(0, name);
  hash = hash_text(hash, dtype_traits(info->dtype).name);
  for (const int64_t extent : info->shape) hash = hash_value(hash, &extent, sizeof extent);
  hash = hash_bytes(hash, tensor->view.data.data(), tensor->view.data.size());
  const std::scoped_lock lock(mutex_);
  tensors_.insert_or_assign(std::string(name), hash);
  return tensor;
}

std::string FingerprintedFile::fingerprint() const {
  std::map<std::string_view, const MetadataValue*> sorted;
  for (const auto& [key, value] : metadata().entries()) {
    if (decides_numbers(key)) sorted.emplace(key, &value);
  }
  std::vector<uint64_t> parts;
  for (const auto& [key, value] : sorted) parts.push_back(hash_metadata(hash_text(1, key), *value));
  const std::scoped_lock lock(mutex_);
  for (const auto& [name, hash] : tensors_) parts.push_back(hash);
  const XXH128_hash_t hash = XXH3_128bits(parts.data(), parts.size() * sizeof parts[0]);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace quipu
