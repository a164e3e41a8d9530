// Sinusoidal positions as a table of rows, one per position.
#pragma once

#include <cstdint>
#include <vector>

#include "model/encoder_decoder_config.h"

namespace quipu {

// SHAPE: result: [positions, width]. REQUIRES: width even and at least 4.
std::vector<float> make_sinusoid_table(const SinusoidConfig& config, int64_t positions, int width);

}  // namespace quipu
