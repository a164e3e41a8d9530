// EncoderDecoderConfig: what an encoder-decoder transformer has beyond its decoder, which the
// fields of ModelConfig describe. Encoder and decoder agree in widths, heads and arithmetic.
#pragma once

#include <cstdint>
#include <optional>

#include "base/strong_id.h"

namespace quipu {

// Where a sub-layer's norm stands: x + f(norm(x)), or norm(x + f(x)).
// SOURCE: after: Vaswani et al. 2017; before: Xiong et al. 2020.
enum class NormPlacement { kBefore, kAfter };

// Fixed positions: sines and cosines of geometrically falling frequencies.
// SOURCE: Vaswani et al. 2017, section 3.5; the variants are those that trained models use.
struct SinusoidConfig {
  enum class Layout {
    kHalves,       // all sines, then all cosines (tensor2tensor, Marian, OpenNMT-tf)
    kInterleaved,  // sine and cosine of each frequency side by side (the paper, OpenNMT-py)
  };
  enum class Frequencies {
    kInclusive,  // 10000^(-i / (n - 1)) for i of n: the slowest is 1/10000
    kExclusive,  // 10000^(-i / n), as the paper writes it
  };
  Layout layout = Layout::kHalves;
  Frequencies frequencies = Frequencies::kInclusive;
  int first_position = 0;  // of the first token: 0 or 1
};

struct EncoderDecoderConfig {
  int encoder_block_count = 0;
  int64_t input_vocab_size = 0;  // rows of the encoder's embedding; 0 until the tensors are seen
  TokenId decoder_start_token = 0;
  NormPlacement norm_placement = NormPlacement::kBefore;
  float embedding_scale = 1;
  std::optional<SinusoidConfig> sinusoid;
  int relative_buckets = 0;  // of the relative position bias; 0: none
  int relative_max_distance = 128;
};

}  // namespace quipu
