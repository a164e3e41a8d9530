// RelativeBias: T5's position information, a bias on attention scores that depends on the head and
// on how far the key is from the query.
//
// A model stores one value per head and bucket of distances: near distances have a bucket each, far
// ones share buckets that grow geometrically, and all beyond a largest distance share the last one.
// Here the buckets are unfolded into a table over distances, so that the scores of neighbouring
// keys take neighbouring values.
// SOURCE: Raffel et al. 2020 (T5), section 2.1. THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/status.h"

namespace quipu {

enum class BiasDirection {
  kBoth,      // half of the buckets for keys before the query, half for those behind it
  kBackward,  // keys at or before the query only
};

// The bucket of a key `distance` positions behind the query (negative: before it).
// REQUIRES: buckets >= 4 and even; max_distance > buckets / 2.
int relative_bucket(int64_t distance, BiasDirection direction, int buckets, int max_distance);

class RelativeBias {
 public:
  RelativeBias() = default;
  // SHAPE: by_bucket: [buckets, heads]. OWNS: nothing given; the backend must outlive it.
  RelativeBias(Backend& backend, BiasDirection direction, std::vector<float> by_bucket, int heads,
               int max_distance);

  // Makes the table cover distances up to `span` either way. It grows at least twofold, so that a
  // sequence that gets longer token by token seldom asks for memory. ERRORS: kResourceExhausted.
  Status reserve(int64_t span);

  bool empty() const { return by_bucket_.empty(); }
  // As AttentionArgs::bias and bias_stride.
  const float* at_distance_zero() const;
  size_t stride() const;
  size_t bytes() const { return table_ == nullptr ? 0 : table_->size(); }

 private:
  Backend* backend_ = nullptr;
  BiasDirection direction_ = BiasDirection::kBoth;
  std::vector<float> by_bucket_;
  int heads_ = 0;
  int max_distance_ = 0;
  int64_t span_ = -1;                    // the table covers -span_ .. span_
  std::unique_ptr<DeviceBuffer> table_;  // SHAPE: [heads, margin + 2 * span + 1 + margin]
};

}  // namespace quipu
