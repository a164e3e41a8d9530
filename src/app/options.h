// What the user chose: everything needed to turn a path into a running engine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "engine/engine.h"
#include "kv/cache_spec.h"
#include "kv/kv_formats.h"
#include "tensor/dtype.h"

namespace quipu {

struct ModelOptions {
  std::filesystem::path model;   // a GGUF file or a Hugging Face directory
  std::optional<DType> weights;  // quantise a Hugging Face directory while loading
  int threads = 0;               // 0: one per usable core
  std::optional<Isa> isa;
  int64_t context_length = 0;        // 0: the model's
  std::optional<uint64_t> kv_bytes;  // nothing: chosen from the context and the free memory
  // Whole contexts that the chosen memory should hold, if half of the free memory does. Two: the
  // running sequence, and the finished one whose beginning the next may reuse.
  int contexts_wanted = 2;
  KvFormats kv_format = KvFormat::kBF16;
  int block_tokens = kDefaultBlockTokens;
  std::string kv_policy = "reuse";  // of eviction
  uint64_t kv_host_bytes = 0;       // for evicted blocks in compact form; 0: none are kept
  bool kv_cache = true;             // false: recompute everything at every step
  int prefill_chunk = 512;
  int sequences_max = 64;
  double decode_stretch_max = 0;  // SchedulerConfig::decode_stretch_max
  int draft_tokens_max = 0;       // SchedulerConfig::draft_tokens_max
  int forced_tokens_max = 8;      // SchedulerConfig::forced_tokens_max
  StreamingConfig streaming;
  std::optional<std::string> pre_tokenizer;  // overrides tokenizer.ggml.pre
};

}  // namespace quipu
