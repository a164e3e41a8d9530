// The end of every forward pass: the final norm and the head, on the rows that need logits only.
#pragma once

#include <memory>
#include <span>

#include "backend/backend.h"
#include "model/config.h"
#include "model/decoder_weights.h"

namespace quipu {

// SHAPE: x, y: [tokens, embedding_length]; they may be the same. REQUIRES: norm has a weight.
void apply_norm(Backend& backend, const ModelConfig& config, const Norm& norm, const float* x,
                float* y, size_t tokens);

struct OutputHead {
  const Norm& norm;  // without a weight: the last layer has one already
  const Linear& linear;
};

// Waits until the logits are there. SHAPE: rows: [R], indices into the T tokens; hidden: [T,
// embedding_length]; gathered: room for [R, embedding_length]; result: [R, vocab_size], in
// `logits`, which grows to the most rows ever asked for: a steady state asks for no more.
std::span<const float> compute_logits(Backend& backend, const ModelConfig& config,
                                      const OutputHead& head, std::span<const int32_t> rows,
                                      const float* hidden, float* gathered,
                                      std::unique_ptr<DeviceBuffer>& logits);

}  // namespace quipu
