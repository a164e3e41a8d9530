// StrongId<Tag>: an integer that does not mix with other integers by accident.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace quipu {

template <typename Tag, typename Int = int32_t>
class StrongId {
 public:
  using Underlying = Int;
  constexpr StrongId() = default;
  constexpr explicit StrongId(Int value) : value_(value) {}
  constexpr Int value() const { return value_; }
  constexpr auto operator<=>(const StrongId&) const = default;

 private:
  Int value_ = 0;
};

using TokenId = int32_t;  // plain: arrays of them go straight into kernels and tokenizers
using BlockId = StrongId<struct BlockIdTag, int32_t>;
using SequenceId = StrongId<struct SequenceIdTag, int64_t>;
using RequestId = StrongId<struct RequestIdTag, int64_t>;

}  // namespace quipu

template <typename Tag, typename Int>
struct std::hash<quipu::StrongId<Tag, Int>> {
  size_t operator()(const quipu::StrongId<Tag, Int>& id) const noexcept {
    return std::hash<Int>()(id.value());
  }
};
