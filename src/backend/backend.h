// Backend: the narrow interface between the model and the machine that computes.
//
// About twenty methods: memory, weights, and operations on whole batches. Each operation takes one
// plain struct of shapes and pointers and returns nothing: shapes were checked when the model was
// bound, so a bad shape here is a bug and aborts.
//
// Operations may be asynchronous; they take effect in the order of the calls. Every array an
// argument struct points to stays alive and unchanged by others until synchronise(); the structs
// themselves are read before the call returns. That sentence is what makes a GPU backend addable.
//
// Determinism contract (docs/ARCHITECTURE.md): for one backend and instruction set, each output row
// is a function of its own inputs only: never of the number of rows, of threads, or of how rows
// were grouped into calls. Every sum has one order, fixed by positions and shapes.
//
// THREADS: engine thread only. Load functions may be called before the first step, from one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "backend/kv_layout.h"
#include "base/status.h"
#include "base/strong_id.h"
#include "tensor/tensor_view.h"

namespace quipu {

class Backend;

// Memory of the backend. OWNS: the memory; the backend must outlive it.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual std::byte* data() = 0;  // a device address; on the CPU backend, plain memory
  virtual size_t size() const = 0;
  float* floats() { return reinterpret_cast<float*>(data()); }
};

// A weight matrix [out_features, in_features], repacked for the backend's kernels.
class LinearWeight {
 public:
  virtual ~LinearWeight() = default;
  virtual int64_t out_features() const = 0;
  virtual int64_t in_features() const = 0;
  virtual DType dtype() const = 0;         // as it was stored
  virtual size_t bytes() const = 0;        // UNITS: bytes that one product reads
  virtual std::string kernel() const = 0;  // the chosen kernel's name, for `doctor` and `bench`
};

// A table of rows [entries, dim] that are looked up, not multiplied.
class EmbeddingTable {
 public:
  virtual ~EmbeddingTable() = default;
  virtual int64_t entries() const = 0;
  virtual int64_t dim() const = 0;
};

struct EmbedArgs {
  const EmbeddingTable* table = nullptr;
  const int32_t* ids = nullptr;  // SHAPE: [tokens]; REQUIRES: 0 <= id < entries
  float* out = nullptr;          // SHAPE: [tokens, dim]
  size_t tokens = 0;
  float scale = 1.0f;       // Gemma multiplies by sqrt(dim)
  bool accumulate = false;  // out += row (learned positions)
};

enum class NormKind { kRms, kLayer };

// y = norm(x) * weight + bias, row by row.
// SOURCE: RMSNorm: Zhang & Sennrich 2019; LayerNorm: Ba et al. 2016.
struct NormArgs {
  NormKind kind = NormKind::kRms;
  const float* x = nullptr;       // SHAPE: [tokens, groups, dim], tokens x_stride floats apart
  float* y = nullptr;             // SHAPE: as x, tokens y_stride apart; y == x allowed
  const float* weight = nullptr;  // SHAPE: [dim]
  const float* bias = nullptr;    // SHAPE: [dim] or null
  size_t tokens = 0;
  size_t groups = 1;  // heads, for the norm of queries and keys; groups lie dim floats apart
  size_t dim = 0;
  size_t x_stride = 0, y_stride = 0;  // UNITS: floats
  float epsilon = 0;
};

enum class Activation { kSilu, kGeluTanh, kGeluErf, kRelu };

enum class LinearStore { kSet, kAdd };

// One product of several that share their input (q, k and v; gate and up).
struct LinearOutput {
  const LinearWeight* weight = nullptr;
  const float* bias = nullptr;  // SHAPE: [out_features] or null
  float* y = nullptr;           // SHAPE: [tokens, out_features], tokens y_stride floats apart
  size_t y_stride = 0;
  LinearStore store = LinearStore::kSet;  // kAdd: y += product + bias (the residual)
};

// y = x W^T + b for each output. REQUIRES: all weights have the same in_features.
struct LinearArgs {
  const float* x = nullptr;  // SHAPE: [tokens, in_features], tokens x_stride floats apart
  size_t x_stride = 0;
  size_t tokens = 0;
  std::span<const LinearOutput> outputs;
  // The outputs are a gate and what it opens: outputs[0].y = activation(gate) * up, with the bits
  // of separate calls; outputs[1].y is not used. REQUIRES: two outputs of the same size, kSet.
  std::optional<Activation> gate = std::nullopt;
};

// Which elements of a head rotate together.
enum class RopePairing {
  kInterleaved,  // (2i, 2i+1): GGUF's "norm", the original RoFormer order
  kHalves,       // (i, i + rot_dim/2): GPT-NeoX, Hugging Face
};

// On the first rot_dim elements of each head, in place or into `out`. SOURCE: Su et al. 2021
// (RoFormer).
struct RopeArgs {
  float* x = nullptr;              // SHAPE: [tokens, heads, head_dim], tokens `stride` floats apart
  const float* cos_sin = nullptr;  // SHAPE: [tokens, rot_dim / 2, 2]: cosine, sine
  size_t tokens = 0, heads = 0, head_dim = 0, rot_dim = 0, stride = 0;
  RopePairing pairing = RopePairing::kHalves;
  float* out = nullptr;  // SHAPE: as x, tokens out_stride apart; null: in place
  size_t out_stride = 0;
};

// Stores new keys and values in their slots, the tokens of a sequence in order.
struct KvWriteArgs {
  const float* k = nullptr;  // SHAPE: [tokens, kv_heads, key_dim], tokens k_stride floats apart
  const float* v = nullptr;  // SHAPE: [tokens, kv_heads, value_dim], tokens v_stride apart
  size_t k_stride = 0, v_stride = 0;
  const int64_t* slot_mapping = nullptr;  // SHAPE: [tokens]: block * block_tokens + offset
  size_t tokens = 0;
  PagedKvView kv;
  int layer = 0;
  // As in AttentionArgs. int4 alone reads them: what it stores depends on the 16 tokens before.
  size_t sequences = 0;
  const int32_t* query_start = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* block_tables = nullptr;
  size_t block_table_stride = 0;
  const int32_t* block_gaps = nullptr;
};

// Attention of every token of the batch over its own sequence's keys, read through the block table.
//
// Token i of sequence s sits at positions[i] and sees positions max(0, p - window + 1) .. p; with
// key_counts it sees positions 0 .. key_counts[s] - 1, whatever its own (an encoder over its input,
// a decoder over the encoded input); with sinks also positions 0 .. sinks - 1, those with the query
// q_sinks. The sinks' partial result comes first, on its own, whether or not the window still
// touches them. The keys and values were written before (determinism rule 3). Partial results are
// formed per chunk of kAttentionChunk positions, counted from position 0, and merged in chunk order,
// whatever the batch looks like.
struct AttentionArgs {
  const float* q = nullptr;  // SHAPE: [tokens, heads, key_dim], tokens q_stride floats apart
  float* out = nullptr;      // SHAPE: [tokens, heads, value_dim], tokens out_stride apart
  size_t q_stride = 0, out_stride = 0;
  size_t tokens = 0, heads = 0, sequences = 0;
  const int32_t* query_start = nullptr;   // SHAPE: [sequences + 1]: tokens of sequence s
  const int32_t* positions = nullptr;     // SHAPE: [tokens]
  const int32_t* block_tables = nullptr;  // SHAPE: [sequences, block_table_stride]: block ids
  size_t block_table_stride = 0;
  // SHAPE: [sequences] or null (0): blocks that a table leaves out, after those of the sinks, as no
  // token sees them any more. Past the gap block b is in column b - block_gaps[s].
  const int32_t* block_gaps = nullptr;
  PagedKvView kv;
  int layer = 0;
  float scale = 1.0f;
  int32_t window = 0;  // 0: all positions
  int32_t sinks = 0;   // REQUIRES: at most kAttentionChunk, and 0 without a window
  // SHAPE: [tokens, heads, key_dim], tokens q_sinks_stride floats apart; read with sinks only
  const float* q_sinks = nullptr;
  size_t q_sinks_stride = 0;
  float softcap = 0.0f;  // 0: none; otherwise scaled scores become cap * tanh(score / cap)
  const int32_t* key_counts = nullptr;  // SHAPE: [sequences], each at least 1; null: causal
  // Added to the scaled scores by distance: for head h, query position p and key position t,
  // bias[h * bias_stride + t - p]; null: nothing. REQUIRES: kAttentionBiasMargin more floats can be
  // read before the least and behind the largest distance; what they hold does not matter.
  // SOURCE: Raffel et al. 2020 (T5), relative position bias.
  const float* bias = nullptr;
  size_t bias_stride = 0;
};

inline constexpr int kAttentionBiasMargin = kKvTileTokens - 1;  // kernels take whole tiles

inline constexpr int kAttentionChunk = 512;  // UNITS: positions; a multiple of every block size

// out = activation(gate) * up; without `up`, out = activation(gate).
struct ActivationArgs {
  Activation activation = Activation::kSilu;
  const float* gate = nullptr;  // SHAPE: [tokens, dim]
  const float* up = nullptr;    // SHAPE: [tokens, dim] or null
  float* out = nullptr;         // SHAPE: [tokens, dim]; may be gate or up
  size_t tokens = 0, dim = 0;
  size_t gate_stride = 0, up_stride = 0, out_stride = 0;  // UNITS: floats
};

// out = a + b, elementwise; out may be a or b.
struct AddArgs {
  const float* a = nullptr;
  const float* b = nullptr;
  float* out = nullptr;
  size_t elements = 0;
};

// x = cap * tanh(x / cap), elementwise and in place: what Gemma does to logits.
// SOURCE: Bello et al. 2016, neural combinatorial optimization, section 3; Gemma 2's report.
struct SoftCapArgs {
  float* x = nullptr;
  size_t elements = 0;
  float cap = 0;  // REQUIRES: positive
};

struct GatherRowsArgs {
  const float* x = nullptr;       // SHAPE: [*, dim]
  const int32_t* rows = nullptr;  // SHAPE: [count]
  float* out = nullptr;           // SHAPE: [count, dim]
  size_t count = 0, dim = 0;
};

// The index of each row's largest value, the lowest index among equals; NaN never wins.
struct ArgMaxArgs {
  const float* x = nullptr;  // SHAPE: [rows, dim]
  int32_t* out = nullptr;    // SHAPE: [rows]
  size_t rows = 0, dim = 0;
};

// Copies whole blocks inside the pool (copy on write).
struct BlockCopy {
  BlockId from, to;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "cpu"
  // What computes, for people: "cpu avx512 (vnni, bf16), 2 threads".
  virtual std::string description() const = 0;

  // Memory. ERRORS: kResourceExhausted.
  virtual Result<std::unique_ptr<DeviceBuffer>> allocate(size_t bytes) = 0;
  virtual void copy_in(std::byte* device, std::span<const std::byte> host) = 0;
  virtual void copy_out(std::span<std::byte> host, const std::byte* device) = 0;
  virtual void copy_blocks(const PagedKvView& kv, std::span<const BlockCopy> copies) = 0;
  // Waits until everything asked for so far has happened.
  virtual void synchronise() = 0;

  // Weights, repacked for the chosen kernels. ERRORS: kUnsupported, kResourceExhausted.
  virtual Result<std::unique_ptr<LinearWeight>> load_linear(const TensorView& weight) = 0;
  // The table reads the view's bytes in place: they must outlive it.
  virtual Result<std::unique_ptr<EmbeddingTable>> load_embedding(const TensorView& table) = 0;
  // A small vector as f32 (norm weights, biases).
  virtual Result<std::unique_ptr<DeviceBuffer>> load_vector(const TensorView& vector) = 0;

  // Operations on whole batches.
  virtual void embed(const EmbedArgs& args) = 0;
  virtual void norm(const NormArgs& args) = 0;
  virtual void linear(const LinearArgs& args) = 0;
  virtual void rope(const RopeArgs& args) = 0;
  virtual void kv_write(const KvWriteArgs& args) = 0;
  virtual void attention(const AttentionArgs& args) = 0;
  virtual void activation(const ActivationArgs& args) = 0;
  virtual void add(const AddArgs& args) = 0;
  virtual void soft_cap(const SoftCapArgs& args) = 0;
  virtual void gather_rows(const GatherRowsArgs& args) = 0;
  virtual void arg_max(const ArgMaxArgs& args) = 0;
};

}  // namespace quipu
