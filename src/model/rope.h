// Rotary position frequencies, with every scaling quipu knows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"

namespace quipu {

// What a position is multiplied with: angle of pair i at position p = p * frequencies[i];
// cosine and sine are both multiplied by `magnitude`.
struct RopeFrequencies {
  std::vector<float> frequencies;  // SHAPE: [dims / 2], radians per token
  float magnitude = 1.0f;
};

// SHAPE: factors: [dims / 2] or empty (Llama 3's rope_freqs tensor: frequencies are divided by it).
RopeFrequencies make_rope_frequencies(const RopeConfig& config, std::span<const float> factors);

// The table that the backend's rope takes. Below `context` positions the angle is the product in
// f32, as the reference implementations form it; from there on in double, because at a million the
// rounding of an f32 product would be a twentieth of a radian.
// SHAPE: positions: [tokens]; out: [tokens, dims / 2, 2].
void fill_rope_table(const RopeFrequencies& rope, std::span<const int32_t> positions,
                     int64_t context, float* out);

}  // namespace quipu
