// Model: weights bound to a backend, and one forward pass over a flat batch.
//
// A batch is T tokens of S sequences, laid out flat; prefill and decode differ only in how many
// tokens of a sequence are in it. The model sees the cache as a KvCacheView and block tables, and
// never learns who owns which block.
// THREADS: engine thread only after loading.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/status.h"
#include "format/model_file.h"
#include "model/config.h"

namespace quipu {

// Where the batch's tokens lie in the pool of one stream group. SHAPE: T tokens, S sequences.
struct GroupBatch {
  std::span<const int64_t> slot_mapping;  // [T]
  std::span<const int32_t> block_tables;  // [S, block_table_stride]
  size_t block_table_stride = 0;
  std::span<const int32_t> block_gaps;  // [S], or empty when no table has a gap
};

// Encoder-decoder models: the encoded input of each sequence, in the pool of cross-attention.
struct EncodedInputs {
  PagedKvView kv;
  std::span<const int32_t> block_tables;  // [S, block_table_stride]
  size_t block_table_stride = 0;
  std::span<const int32_t> lengths;  // [S]: tokens
};

// SHAPE: T tokens, S sequences, R rows that need logits.
// OWNS: nothing; all arrays live until the logits were read.
struct ForwardBatch {
  std::span<const int32_t> token_ids;    // [T]
  std::span<const int32_t> positions;    // [T]
  std::span<const int32_t> query_start;  // [S + 1]
  std::span<const GroupBatch> groups;    // one per group of the KvCacheView
  std::span<const int32_t> logit_rows;   // [R]: indices into the T tokens
  EncodedInputs inputs;                  // of encoder-decoder models
};

// One input of an encoder-decoder model, and where its cross-attention keys and values go.
// SHAPE: N tokens. OWNS: nothing.
struct EncoderInput {
  std::span<const int32_t> token_ids;    // [N]
  std::span<const int32_t> block_table;  // blocks of the cross pool, enough for N tokens, in order
};

struct ModelLoadOptions {
  // Tokens that one forward pass may hold; sizes the activation buffers.
  int batch_tokens_max = 512;
  // The longest sequence that will be asked for: ModelConfig::context_in_force. 0: the model's own.
  int64_t context_length = 0;
  // Called as tensors are loaded. UNITS: bytes of weights.
  std::function<void(uint64_t done, uint64_t total)> progress;
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual int batch_tokens_max() const = 0;

  // UNITS: bytes of weights that every decode step reads.
  virtual size_t weight_bytes() const = 0;
  virtual size_t activation_bytes() const = 0;

  // Computes the batch, writes its keys and values into `kv`, and returns the logits of logit_rows.
  // SHAPE: result: [R, vocab_size], valid until the next forward().
  // REQUIRES: T <= batch_tokens_max; token ids below vocab_size; positions below context_in_force,
  // unless they are rotary and every layer has a window; a place in `kv` for each layer.
  virtual std::span<const float> forward(const ForwardBatch& batch, const KvCacheView& kv) = 0;

  // Encoder-decoder models (config().encoder_decoder) only; the others need none of it.
  // Makes room for inputs of up to `tokens_max` tokens. ERRORS: kResourceExhausted.
  virtual Status reserve_input(int64_t tokens_max);
  // Runs the encoder and writes the keys and values of every decoder layer's cross-attention into
  // `cross`, a pool with config().block_count layers. The bits depend on the input's tokens alone.
  // REQUIRES: 0 < N <= reserved; token ids below input_vocab_size.
  virtual void encode(const EncoderInput& input, const PagedKvView& cross);
};

// Checks names and shapes against the architecture, and repacks the weights for the backend.
// OWNS: the model keeps views into `file` (embedding rows): the file must outlive it.
// ERRORS: kUnsupported, kNotFound (a missing tensor), kCorruptData (a wrong shape: tensor,
// expected, found), kResourceExhausted.
Result<std::unique_ptr<Model>> load_model(const ModelFile& file, Backend& backend,
                                          const ModelLoadOptions& options);

}  // namespace quipu
