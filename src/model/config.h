// ModelConfig: the shape and the arithmetic of a transformer, read from metadata: of a decoder, and
// where encoder_decoder is set, of the encoder it attends to.
//
// Plain data. An architecture file (llama.cc, qwen3.cc, ...) fills it; the forward pass
// (decoder.cc) reads it. Everything an architecture does differently is a field here, so that the
// forward pass is one text in the order of the papers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/status.h"
#include "format/metadata.h"
#include "model/encoder_decoder_config.h"

namespace quipu {

// How rotary positions are stretched beyond the trained context.
enum class RopeScaling {
  kNone,
  kLinear,  // SOURCE: Chen et al. 2023, position interpolation: frequencies divided by the factor
  kYarn,    // SOURCE: Peng et al. 2023, YaRN: by-part interpolation and a temperature on q and k
};

struct RopeConfig {
  RopePairing pairing = RopePairing::kHalves;
  int dims = 0;  // elements of a head that rotate
  double theta = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  int64_t original_context = 0;  // YaRN: the context it was trained with
  double attention_factor = 1;   // multiplies cosine and sine, on top of YaRN's own
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;  // YaRN: correction range rounded outwards to whole dimensions
  // Llama 3's factors come as a tensor (rope_freqs.weight): frequencies are divided by them.
};

enum class PositionKind { kNone, kRope, kLearned };

struct ModelConfig {
  std::string architecture;
  std::string name;

  int64_t context_length = 0;
  int64_t vocab_size = 0;  // rows of the output head; 0 until the tensors are seen
  int embedding_length = 0;
  int block_count = 0;
  int feed_forward_length = 0;
  int head_count = 0;
  int head_count_kv = 0;
  int key_length = 0;
  int value_length = 0;

  NormKind norm = NormKind::kRms;
  float norm_epsilon = 1e-5f;
  PositionKind positions = PositionKind::kRope;
  RopeConfig rope;
  Activation activation = Activation::kSilu;
  bool gated_feed_forward = true;  // down(act(gate(x)) * up(x)); otherwise down(act(up(x)))
  bool query_key_norm = false;     // RMSNorm of every head of q and k before rope
  // Tokens that a query sees, itself included; 0: all before it. SHAPE: [block_count].
  std::vector<int> layer_windows;
  float attention_scale = 0;  // on q . k; 1/sqrt(key_length) unless an architecture says otherwise
  std::optional<EncoderDecoderConfig> encoder_decoder;

  int query_width() const { return head_count * key_length; }
  int key_width() const { return head_count_kv * key_length; }
  int value_width() const { return head_count_kv * value_length; }
};

// Reads the keys that every decoder-only architecture has ("<arch>.block_count", ...), with their
// defaults, and checks that they make sense together.
// ERRORS: kCorruptData with the key, expected and found.
Result<ModelConfig> read_common_config(const Metadata& metadata, const std::string& architecture);

// Reads what encoder-decoder architectures share. The common ".block_count" is the encoder's; from
// here on config.block_count is the decoder's. ERRORS: as read_common_config().
Result<EncoderDecoderConfig> read_encoder_decoder_config(const Metadata& metadata,
                                                         ModelConfig& config);

// An integer key between `low` and `high`, or `fallback` when it is absent. ERRORS: kCorruptData.
Result<int64_t> read_bounded_int(const Metadata& metadata, const std::string& key, int64_t fallback,
                                 int64_t low, int64_t high);

}  // namespace quipu
