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
  // SOURCE: Ding et al. 2024, LongRoPE: a divisor for every frequency, from one of two tensors
  // (rope_factors_short.weight, rope_factors_long.weight).
  kLongRope,
};

struct RopeConfig {
  RopePairing pairing = RopePairing::kHalves;
  int dims = 0;  // elements of a head that rotate
  double theta = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  int64_t original_context = 0;  // YaRN, LongRoPE: the context it was trained with
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
  // What the model is loaded for, at most context_length. LongRoPE takes its long factors where
  // this is more than the original context: one choice for all requests, because keys that were
  // rotated by one set of factors are of no use to queries of the other.
  int64_t context_in_force = 0;
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
  std::optional<RopeConfig> local_rope;  // of windowed layers, where they have their own (Gemma 3)
  float embedding_scale = 1;             // on the embedding's rows
  Activation activation = Activation::kSilu;
  bool gated_feed_forward = true;  // down(act(gate(x)) * up(x)); otherwise down(act(up(x)))
  bool fused_gate_up = false;      // one matrix ffn_up whose rows are gate | up (Phi-3)
  bool query_key_norm = false;     // RMSNorm of every head of q and k before rope
  bool post_norms = false;  // a norm also behind attention and feed-forward, before the residual
  // Tokens that a query sees, itself included; 0: all before it. SHAPE: [block_count].
  std::vector<int> layer_windows;
  // The layers that have a window, also where it is as wide as the context. SHAPE: [block_count].
  std::vector<bool> windowed_layers;
  float attention_scale = 0;  // on q . k; 1/sqrt(key_length) unless an architecture says otherwise
  std::optional<EncoderDecoderConfig> encoder_decoder;
  float attention_softcap = 0;  // scaled scores become cap * tanh(score / cap); 0: as they are
  float output_softcap = 0;     // the same for logits

  int query_width() const { return head_count * key_length; }
  int key_width() const { return head_count_kv * key_length; }
  int value_width() const { return head_count_kv * value_length; }
};

// Which layers have the window, where the file does not say: all of them, or all but every n-th.
struct WindowDefaults {
  int64_t period = 0;  // layer i has it when i % period < period - 1; 0: every layer
  int64_t window = 0;  // UNITS: tokens; 0: none
};

// Reads the keys that every decoder-only architecture has ("<arch>.block_count", ...), with their
// defaults, and checks that they make sense together.
// ERRORS: kCorruptData with the key, expected and found.
Result<ModelConfig> read_common_config(const Metadata& metadata, const std::string& architecture,
                                       const WindowDefaults& windows = {});

// A number that must be positive and finite where the key is there. ERRORS: kCorruptData.
Result<double> read_positive(const Metadata& metadata, const std::string& key, double fallback);

// Reads what encoder-decoder architectures share. The common ".block_count" is the encoder's; from
// here on config.block_count is the decoder's. ERRORS: as read_common_config().
Result<EncoderDecoderConfig> read_encoder_decoder_config(const Metadata& metadata,
                                                         ModelConfig& config);

// An integer key between `low` and `high`, or `fallback` when it is absent. ERRORS: kCorruptData.
Result<int64_t> read_bounded_int(const Metadata& metadata, const std::string& key, int64_t fallback,
                                 int64_t low, int64_t high);

}  // namespace quipu
