#include "model/output_head.h"

#include <array>
#include <utility>

namespace quipu {

void apply_norm(Backend& backend, const ModelConfig& config, const Norm& norm, const float* x,
                float* y, size_t tokens) {
  const auto dim = static_cast<size_t>(config.embedding_length);
  backend.norm({.kind = config.norm,
                .x = x,
                .y = y,
                .weight = norm.weight->floats(),
                .bias = norm.bias ? norm.bias->floats() : nullptr,
                .tokens = tokens,
                .groups = 1,
                .dim = dim,
                .x_stride = dim,
                .y_stride = dim,
                .epsilon = config.norm_epsilon});
}

std::span<const float> compute_logits(Backend& backend, const ModelConfig& config,
                                      const OutputHead& head, std::span<const int32_t> rows,
                                      const float* hidden, float* gathered,
                                      std::unique_ptr<DeviceBuffer>& logits) {
  if (rows.empty()) {
    backend.synchronise();
    return {};
  }
  const auto width = static_cast<size_t>(config.embedding_length);
  const auto vocab = static_cast<size_t>(config.vocab_size);
  const size_t elements = rows.size() * vocab;
  if (logits == nullptr || logits->size() < elements * sizeof(float)) {
    Result<std::unique_ptr<DeviceBuffer>> room = backend.allocate(elements * sizeof(float));
    QUIPU_CHECK(room.ok(), "{} rows of logits: {}", rows.size(), room.status().message());
    logits = std::move(room).value();
  }
  backend.gather_rows(
      {.x = hidden, .rows = rows.data(), .out = gathered, .count = rows.size(), .dim = width});
  if (head.norm.weight != nullptr)
    apply_norm(backend, config, head.norm, gathered, gathered, rows.size());
  const std::array output = {LinearOutput{head.linear.weight.get(),
                                          head.linear.bias ? head.linear.bias->floats() : nullptr,
                                          logits->floats(), vocab}};
  backend.linear({.x = gathered, .x_stride = width, .tokens = rows.size(), .outputs = output});
  if (config.output_softcap != 0)
    backend.soft_cap({.x = logits->floats(), .elements = elements, .cap = config.output_softcap});
  backend.synchronise();
  return {logits->floats(), elements};
}

}  // namespace quipu
