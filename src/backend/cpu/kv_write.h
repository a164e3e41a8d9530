// Storing keys and values: from rows of floats into the tiles and codes of backend/kv_layout.h.
#pragma once

#include <cstddef>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels_codes.h"

namespace quipu::cpu {

// Working memory of write_heads(). UNITS: bytes.
size_t kv_write_scratch_bytes(const KvLayerLayout& layout);

// The keys and values of KV heads [first, last) of all tokens, sequence by sequence, in order.
// SHAPE: scratch: [kv_write_scratch_bytes()], aligned to 64 bytes
// REQUIRES: int4: args.sequences and what belongs to it.
void write_heads(const KvWriteArgs& args, const KernelTable& kernels, const CodeKernels& codes,
                 size_t first, size_t last, std::byte* scratch);

}  // namespace quipu::cpu
