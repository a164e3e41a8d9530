// The k types: super-blocks of 256 whose sub-blocks have their own scale (and minimum), found by
// search instead of from the extremes.
//
// For a sub-block, candidates of the scale around the one that the range gives are tried: each
// fixes integer codes, the codes fix the best real scale and minimum by weighted least squares, and
// the candidate with the least weighted error wins. Sub-block scales are then rounded to their own
// few bits, codes are chosen again for what a reader will really decode, and the super-block's
// factors are fitted once more to those codes.
//
// Weights: rms + |x|. Larger weights of a row matter more to its products, but small ones carry
// most of the count; the sum of both keeps either from being sacrificed.
#include <algorithm>
#include <array>
#include <cstring>

#include "tensor/quantize_internal.h"

namespace quipu::internal {

namespace {

constexpr size_t kSubBlocks = kSuperBlock / 32;    // of q4_k and q5_k
constexpr size_t kSubBlocksQ6 = kSuperBlock / 16;  // of q6_k
constexpr int kScaleMax = 63;                      // 6-bit scales and minimums
constexpr float kTiny = 1e-30f;                    // below this, a block is zero

// Adding and subtracting 1.5 * 2^23 rounds |value| < 2^22 to the nearest integer without a call.
constexpr float kRoundShift = 12582912.0f;

int nearest_int(float value) { return static_cast<int>(value + kRoundShift - kRoundShift); }

int code_of(float value, int low, int high) {
  const float bounded = value > static_cast<float>(high) ? static_cast<float>(high) : value;
  return nearest_int(bounded > static_cast<float>(low) ? bounded : static_cast<float>(low));
}

void importance(const float* x, size_t n, float* weights) {
  float sum = 0.0f;
  for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const float rms = std::sqrt(sum / static_cast<float>(n));
  for (size_t i = 0; i < n; ++i) weights[i] = rms + std::fabs(x[i]);
}

// x ~ scale * code - min, with scale and min not negative.
struct AffineFit {
  float scale = 0.0f;
  float min = 0.0f;
};

// Weighted sums over one sub-block for fixed codes; the fit's normal equations. The first three do
// not depend on the codes.
struct AffineSums {
  float w = 0, wx = 0, wxx = 0;
  float wl = 0, wll = 0, wxl = 0;

  // Least squares of w * (x - scale * code + min)^2 with min >= 0.
  AffineFit solve() const {
    const float determinant = w * wll - wl * wl;
    AffineFit fit;
    if (determinant > 0.0f) {
      fit.scale = (w * wxl - wx * wl) / determinant;
      fit.min = (wl * wxl - wll * wx) / determinant;
    }
    if (determinant <= 0.0f || fit.min < 0.0f) {
      fit.min = 0.0f;
      fit.scale = wll > 0.0f ? wxl / wll : 0.0f;
    }
    return fit;
  }

  float error(const AffineFit& fit) const {
    return wxx + fit.scale * fit.scale * wll + fit.min * fit.min * w - 2 * fit.scale * wxl +
           2 * fit.min * wx - 2 * fit.scale * fit.min * wl;
  }
};

// One sub-block of 32 under search.
class AffineSearch {
 public:
  AffineSearch(const float* x, const float* weights, int code_max)
      : x_(x), weights_(weights), code_max_(static_cast<float>(code_max)) {
    for (size_t i = 0; i < kElements; ++i) {
      fixed_.w += weights[i];
      fixed_.wx += weights[i] * x[i];
      fixed_.wxx += weights[i] * x[i] * x[i];
    }
  }

  // The scale and minimum with the least weighted error among the candidates.
  AffineFit run() const {
    constexpr int kCandidates = 24;
    const auto [low_at, high_at] = std::minmax_element(x_, x_ + kElements);
    const float min = std::max(0.0f, -*low_at);
    const float range = std::max(0.0f, *high_at) + min;
    if (range < kTiny) return {};
    AffineFit best{range / code_max_, min};
    float best_error = sums(code_max_ / range, min).error(best);
    // From one code narrower than the range to one and a half wider (the ends clip).
    for (int step = 0; step <= kCandidates; ++step) {
      const float codes = code_max_ - 1.0f + 2.5f * static_cast<float>(step) / kCandidates;
      keep_better(sums(codes / range, min), best, best_error);
    }
    // The fitted minimum moves the codes; one more round of codes and fit usually gains a little.
    keep_better(sums(1.0f / best.scale, best.min), best, best_error);
    return best;
  }

 private:
  static constexpr size_t kElements = 32;
  static constexpr size_t kLanes = 4;  // partial sums, so that compilers can use vectors

  static void keep_better(const AffineSums& sums, AffineFit& best, float& best_error) {
    const AffineFit fit = sums.solve();
    const float error = sums.error(fit);
    if (fit.scale > 0.0f && error < best_error) {
      best = fit;
      best_error = error;
    }
  }

  // The sums for codes = round((x + min) * inverse), clipped.
  AffineSums sums(float inverse, float min) const {
    float codes[kElements];
    for (size_t i = 0; i < kElements; ++i) {
      float scaled = (x_[i] + min) * inverse;
      scaled = scaled > 0.0f ? scaled : 0.0f;
      scaled = scaled < code_max_ ? scaled : code_max_;
      codes[i] = scaled + kRoundShift - kRoundShift;
    }
    float wl[kLanes] = {}, wll[kLanes] = {}, wxl[kLanes] = {};
    for (size_t i = 0; i < kElements; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float weighted = weights_[i + lane] * codes[i + lane];
        wl[lane] += weighted;
        wll[lane] += weighted * codes[i + lane];
        wxl[lane] += weighted * x_[i + lane];
      }
    }
    AffineSums sums = fixed_;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      sums.wl += wl[lane];
      sums.wll += wll[lane];
      sums.wxl += wxl[lane];
    }
    return sums;
  }

  const float* x_;
  const float* weights_;
  float code_max_;
  AffineSums fixed_;
};

// A super-block of q4_k or q5_k before packing.
struct AffineSuperBlock {
  uint16_t d = 0;
  uint16_t dmin = 0;
  std::array<ScaleMin, kSubBlocks> scales{};
  std::array<uint8_t, kSuperBlock> codes{};
};

void choose_codes(const float* x, int code_max, AffineSuperBlock& block) {
  const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
  for (size_t s = 0; s < kSubBlocks; ++s) {
    const float scale = d * static_cast<float>(block.scales[s].scale);
    const float min = dmin * static_cast<float>(block.scales[s].min);
    const float inverse = scale > kTiny ? 1.0f / scale : 0.0f;
    for (size_t i = 32 * s; i < 32 * (s + 1); ++i) {
      block.codes[i] = static_cast<uint8_t>(code_of((x[i] + min) * inverse, 0, code_max));
    }
  }
}

float weighted_error(const float* x, const float* weights, const AffineSuperBlock& block) {
  const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
  float error = 0.0f;
  for (size_t i = 0; i < kSuperBlock; ++i) {
    const ScaleMin& s = block.scales[i / 32];
    const float decoded = d * static_cast<float>(s.scale) * static_cast<float>(block.codes[i]) -
                          dmin * static_cast<float>(s.min);
    error += weights[i] * (x[i] - decoded) * (x[i] - decoded);
  }
  return error;
}

// Refits d and dmin to the chosen codes: x ~ d * (sc * code) - dmin * mn over the whole
// super-block.
void refit_factors(const float* x, const float* weights, AffineSuperBlock& block) {
  float aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
  for (size_t i = 0; i < kSuperBlock; ++i) {
    const ScaleMin& s = block.scales[i / 32];
    const float a = static_cast<float>(s.scale) * static_cast<float>(block.codes[i]);
    const float b = static_cast<float>(s.min);
    aa += weights[i] * a * a;
    ab += weights[i] * a * b;
    bb += weights[i] * b * b;
    ax += weights[i] * a * x[i];
    bx += weights[i] * b * x[i];
  }
  // Minimise over (d, dmin): [aa -ab; -ab bb] (d, dmin) = (ax, -bx).
  const float determinant = aa * bb - ab * ab;
  if (bb <= 0.0f) {
    if (aa > 0.0f && ax > 0.0f) block.d = scale_to_f16(ax / aa);
    return;
  }
  if (!(determinant > 1e-6f * aa * bb)) return;
  const float d = (ax * bb - bx * ab) / determinant;
  const float dmin = (ax * ab - bx * aa) / determinant;
  if (d > 0.0f && dmin >= 0.0f) {
    block.d = scale_to_f16(d);
    block.dmin = scale_to_f16(dmin);
  }
}

AffineSuperBlock quantize_affine(const float* x, int code_max) {
  std::array<float, kSuperBlock> weights;
  std::array<AffineFit, kSubBlocks> fits;
  AffineFit largest;
  for (size_t s = 0; s < kSubBlocks; ++s) {
    importance(x + 32 * s, 32, weights.data() + 32 * s);
    fits[s] = AffineSearch(x + 32 * s, weights.data() + 32 * s, code_max).run();
    largest.scale = std::max(largest.scale, fits[s].scale);
    largest.min = std::max(largest.min, fits[s].min);
  }
  AffineSuperBlock block;
  block.d = scale_to_f16(largest.scale / kScaleMax);
  block.dmin = scale_to_f16(largest.min / kScaleMax);
  const float inverse_d = largest.scale > kTiny ? kScaleMax / largest.scale : 0.0f;
  const float inverse_dmin = largest.min > kTiny ? kScaleMax / largest.min : 0.0f;
  for (size_t s = 0; s < kSubBlocks; ++s) {
    block.scales[s] = {static_cast<uint8_t>(code_of(fits[s].scale * inverse_d, 0, kScaleMax)),
                       static_cast<uint8_t>(code_of(fits[s].min * inverse_dmin, 0, kScaleMax))};
  }
  choose_codes(x, code_max, block);
  AffineSuperBlock refined = block;
  refit_factors(x, weights.data(), refined);
  choose_codes(x, code_max, refined);
  return weighted_error(x, weights.data(), refined) < weighted_error(x, weights.data(), block)
             ? refined
             : block;
}

// x ~ scale * code with codes -32..31, by the scale that leaves the least weighted error.
float search_symmetric(const float* x, const float* weights) {
  constexpr size_t n = 16, kLanes = 4;
  float extreme = 0.0f;
  for (size_t i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  if (std::fabs(extreme) < kTiny) return 0.0f;
  float best_gain = 0.0f, best_scale = 0.0f;
  for (int step = -9; step <= 9; ++step) {
    const float inverse = -(32.0f + 0.1f * static_cast<float>(step)) / extreme;
    float codes[n];
    for (size_t i = 0; i < n; ++i) {
      float scaled = x[i] * inverse;
      scaled = scaled > -32.0f ? scaled : -32.0f;
      scaled = scaled < 31.0f ? scaled : 31.0f;
      codes[i] = scaled + kRoundShift - kRoundShift;
    }
    float wxl[kLanes] = {}, wll[kLanes] = {};
    for (size_t i = 0; i < n; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float weighted = weights[i + lane] * codes[i + lane];
        wxl[lane] += weighted * x[i + lane];
        wll[lane] += weighted * codes[i + lane];
      }
    }
    const float sum_wxl = wxl[0] + wxl[1] + wxl[2] + wxl[3];
    const float sum_wll = wll[0] + wll[1] + wll[2] + wll[3];
    // The error left by the best scale is sum(w x^2) - wxl^2 / wll: the gain is what it removes.
    if (sum_wll > 0.0f && sum_wxl * sum_wxl > best_gain * sum_wll) {
      best_gain = sum_wxl * sum_wxl / sum_wll;
      best_scale = sum_wxl / sum_wll;
    }
  }
  return best_scale;
}

void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (size_t pair = 0; pair < kSubBlocks / 2; ++pair) {
    for (size_t l = 0; l < 32; ++l) {
      const uint8_t low = codes[64 * pair + l], high = codes[64 * pair + 32 + l];
      qs[32 * pair + l] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
    }
  }
}

void pack_scales(const AffineSuperBlock& block, uint8_t* scales) {
  std::memset(scales, 0, 12);
  for (size_t s = 0; s < kSubBlocks; ++s) pack_scale_min(scales, s, block.scales[s]);
}

}  // namespace

void quantize(const float* values, BlockQ4_K& block) {
  const AffineSuperBlock found = quantize_affine(values, 15);
  block.d = found.d;
  block.dmin = found.dmin;
  pack_scales(found, block.scales);
  pack_nibbles(found.codes.data(), block.qs);
}

void dequantize(const BlockQ4_K& block, float* values) {
  const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
  for (size_t s = 0; s < kSubBlocks; ++s) {
    const ScaleMin packed = unpack_scale_min(block.scales, s);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    const uint8_t* qs = block.qs + 32 * (s / 2);
    for (size_t l = 0; l < 32; ++l) {
      const int code = s % 2 == 0 ? qs[l] & 15 : qs[l] >> 4;
      values[32 * s + l] = scale * static_cast<float>(code) - min;
    }
  }
}

void quantize(const float* values, BlockQ5_K& block) {
  const AffineSuperBlock found = quantize_affine(values, 31);
  block.d = found.d;
  block.dmin = found.dmin;
  pack_scales(found, block.scales);
  pack_nibbles(found.codes.data(), block.qs);
  std::memset(block.qh, 0, sizeof block.qh);
  for (size_t i = 0; i < kSuperBlock; ++i) {
    block.qh[i % 32] = static_cast<uint8_t>(block.qh[i % 32] | (found.codes[i] >> 4) << (i / 32));
  }
}

void dequantize(const BlockQ5_K& block, float* values) {
  const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
  for (size_t s = 0; s < kSubBlocks; ++s) {
    const ScaleMin packed = unpack_scale_min(block.scales, s);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    const uint8_t* qs = block.qs + 32 * (s / 2);
    for (size_t l = 0; l < 32; ++l) {
      const int low = s % 2 == 0 ? qs[l] & 15 : qs[l] >> 4;
      const int code = low | (block.qh[l] >> s & 1) << 4;
      values[32 * s + l] = scale * static_cast<float>(code) - min;
    }
  }
}

void quantize(const float* values, BlockQ6_K& block) {
  constexpr float kSubScaleMax = 128.0f;  // sub-block scales are -128..127
  std::array<float, kSubBlocksQ6> scales;
  float extreme = 0.0f;
  for (size_t s = 0; s < kSubBlocksQ6; ++s) {
    float weights[16];
    importance(values + 16 * s, 16, weights);
    scales[s] = search_symmetric(values + 16 * s, weights);
    if (std::fabs(scales[s]) > std::fabs(extreme)) extreme = scales[s];
  }
  std::memset(&block, 0, sizeof block);
  block.d = scale_to_f16(extreme / -kSubScaleMax);
  const float d = f16_to_f32(block.d);
  if (d == 0.0f) {
    for (size_t i = 0; i < 128; ++i) block.ql[i] = 0;
    for (size_t i = 0; i < 64; ++i)
      block.qh[i] = 0xAA;  // the code of zero, 32, has only its top bit
    return;
  }
  for (size_t s = 0; s < kSubBlocksQ6; ++s) {
    block.scales[s] = static_cast<int8_t>(code_of(scales[s] / d, -128, 127));
  }
  for (size_t i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(block.scales[i / 16]);
    const int code = 32 + (scale != 0.0f ? code_of(values[i] / scale, -32, 31) : 0);
    const size_t half = i / 128, group = i % 128 / 32, l = i % 32;
    uint8_t& low = block.ql[64 * half + 32 * (group % 2) + l];
    uint8_t& high = block.qh[32 * half + l];
    low = static_cast<uint8_t>(low | (code & 15) << (group < 2 ? 0 : 4));
    high = static_cast<uint8_t>(high | (code >> 4) << (2 * group));
  }
}

void dequantize(const BlockQ6_K& block, float* values) {
  const float d = f16_to_f32(block.d);
  for (size_t run = 0; run < kSubBlocksQ6; ++run) {  // 16 elements with one scale
    const size_t half = run / 8, group = run % 8 / 2, first = 16 * (run % 2);
    const uint8_t* low = block.ql + 64 * half + 32 * (group % 2) + first;
    const uint8_t* high = block.qh + 32 * half + first;
    const int low_shift = group < 2 ? 0 : 4, high_shift = static_cast<int>(2 * group);
    const float scale = d * static_cast<float>(block.scales[run]);
    for (size_t l = 0; l < 16; ++l) {
      const int code = (low[l] >> low_shift & 15) | (high[l] >> high_shift & 3) << 4;
      values[16 * run + l] = scale * static_cast<float>(code - 32);
    }
  }
}

}  // namespace quipu::internal
