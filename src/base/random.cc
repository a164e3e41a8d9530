#include "base/random.h"

#include <cmath>
#include <numbers>

namespace quipu {

std::array<uint32_t, 4> philox4x32(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  auto x = std::array<uint32_t, 4>{
      static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
      static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * x[0];
    const uint64_t p1 = uint64_t{kMultiplier1} * x[2];
    x = {static_cast<uint32_t>(p1 >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return x;
}

namespace {
double to_unit_interval(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }
}  // namespace

double uniform_at(uint64_t seed, uint64_t position, uint64_t draw) {
  const auto x = philox4x32(seed, position, draw);
  return to_unit_interval(uint64_t{x[0]} << 32 | x[1]);
}

uint64_t Random::next_u64() {
  const auto x = philox4x32(seed_, counter_ / 2, 0);
  const int half = static_cast<int>(counter_ % 2) * 2;
  ++counter_;
  return uint64_t{x[half]} << 32 | x[half + 1];
}

double Random::next_double() { return to_unit_interval(next_u64()); }

float Random::next_normal() {
  const double u = 1.0 - next_double();  // in (0, 1]
  const double angle = 2 * std::numbers::pi * next_double();
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(angle));
}

}  // namespace quipu
