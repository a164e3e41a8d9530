#include "backend/cpu/weight_memory.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/units.h"

namespace quipu::cpu {
namespace {

TEST(WeightMemory, MatricesLieSideBySideOnLinesOfTheirOwn) {
  WeightMemory memory;
  const auto first = memory.allocate(100).value();
  const auto second = memory.allocate(64).value();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data) % 64, 0u);
  EXPECT_EQ(second.data - first.data, 128);
  EXPECT_EQ(first.slab, second.slab);
  EXPECT_TRUE(
      std::all_of(first.data, first.data + 164, [](std::byte b) { return b == std::byte{0}; }));
}

TEST(WeightMemory, OneLargerThanASlabHasItsOwn) {
  WeightMemory memory;
  const auto small = memory.allocate(64).value();
  const auto large = memory.allocate(40 * kMiB).value();
  EXPECT_NE(large.slab, small.slab);
  EXPECT_EQ(large.slab->size(), 40 * kMiB);
  const auto after = memory.allocate(64).value();  // nothing is left of the large one
  EXPECT_NE(after.slab, large.slab);
}

TEST(WeightMemory, ASlabGoesWithItsLastMatrix) {
  WeightMemory memory;
  auto first = memory.allocate(64).value();
  auto second = memory.allocate(64).value();
  const std::weak_ptr<AlignedBuffer> slab = first.slab;
  first = {};
  EXPECT_FALSE(slab.expired());
  second = {};
  EXPECT_TRUE(slab.expired());
  EXPECT_NE(memory.allocate(64).value().data, nullptr);  // and the next begins another
}

TEST(WeightMemory, TooMuchIsRefused) {
  WeightMemory memory;
  EXPECT_EQ(memory.allocate(size_t{1} << 61).status().code(), ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace quipu::cpu
