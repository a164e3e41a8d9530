#include "model/relative_bias.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/check.h"

namespace quipu {

namespace {

constexpr int64_t kSpanMin = 512;  // what published models were trained with

}  // namespace

int relative_bucket(int64_t distance, BiasDirection direction, int buckets, int max_distance) {
  int first = 0, count = buckets;
  int64_t away = 0;
  if (direction == BiasDirection::kBoth) {
    count = buckets / 2;
    if (distance > 0) first = count;
    away = std::abs(distance);
  } else {
    away = std::max<int64_t>(0, -distance);
  }
  const int exact = count / 2;
  if (away < exact) return first + static_cast<int>(away);
  // The remaining buckets divide [exact, max_distance) into equal ratios. The small addition keeps
  // distances that lie on a border in the upper bucket, whatever the logarithm's last bit.
  const double ratio = std::log(static_cast<double>(away) / exact) /
                       std::log(static_cast<double>(max_distance) / exact);
  const double bucket = std::floor(ratio * (count - exact) + 1e-6);
  return first + std::min(count - 1, exact + static_cast<int>(std::min<double>(bucket, count)));
}

RelativeBias::RelativeBias(Backend& backend, BiasDirection direction, std::vector<float> by_bucket,
                           int heads, int max_distance)
    : backend_(&backend),
      direction_(direction),
      by_bucket_(std::move(by_bucket)),
      heads_(heads),
      max_distance_(max_distance) {
  QUIPU_CHECK(heads > 0 && by_bucket_.size() % static_cast<size_t>(heads) == 0,
              "{} bias values for {} heads", by_bucket_.size(), heads);
}

Status RelativeBias::reserve(int64_t span) {
  if (span <= span_) return Status::ok_status();
  const int64_t wanted = std::max({span, 2 * span_, kSpanMin});
  const size_t columns = 2 * (static_cast<size_t>(wanted) + kAttentionBiasMargin) + 1;
  std::vector<float> values(static_cast<size_t>(heads_) * columns, 0.0f);
  const int buckets = static_cast<int>(by_bucket_.size()) / heads_;
  for (int64_t distance = -wanted; distance <= wanted; ++distance) {
    const auto bucket =
        static_cast<size_t>(relative_bucket(distance, direction_, buckets, max_distance_));
    const auto column = static_cast<size_t>(wanted + kAttentionBiasMargin + distance);
    for (size_t head = 0; head < static_cast<size_t>(heads_); ++head) {
      values[head * columns + column] = by_bucket_[bucket * static_cast<size_t>(heads_) + head];
    }
  }
  const std::span<const std::byte> bytes = std::as_bytes(std::span(values));
  Result<std::unique_ptr<DeviceBuffer>> table = backend_->allocate(bytes.size());
  if (!table.ok()) return table.status().with_context("relative position bias");
  backend_->copy_in((*table)->data(), bytes);
  table_ = std::move(table).value();
  span_ = wanted;
  return Status::ok_status();
}

const float* RelativeBias::at_distance_zero() const {
  return empty() ? nullptr : table_->floats() + span_ + kAttentionBiasMargin;
}

size_t RelativeBias::stride() const {
  return empty() ? 0 : 2 * (static_cast<size_t>(span_) + kAttentionBiasMargin) + 1;
}

}  // namespace quipu
