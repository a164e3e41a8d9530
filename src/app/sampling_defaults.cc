#include "app/sampling_defaults.h"

#include <algorithm>

namespace quipu {

SamplingParams usual_sampling() {
  return {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f};
}

Result<SamplingParams> choose_sampling(const LoadedModel& model, const SamplingChoice& chosen,
                                       SamplingParams usual) {
  const Metadata& metadata = model.file->metadata();
  const auto take = [&](const std::optional<float>& choice, const char* key, float& value) {
    if (choice.has_value()) return;
    if (const auto found = metadata.get_double(key)) value = static_cast<float>(*found);
  };
  SamplingParams params = std::move(usual);
  if (model.model->config().encoder_decoder.has_value()) params.temperature = 0;
  take(chosen.temperature, "general.sampling.temp", params.temperature);
  take(chosen.top_p, "general.sampling.top_p", params.top_p);
  take(chosen.min_p, "general.sampling.min_p", params.min_p);
  take(chosen.repetition_penalty, "general.sampling.penalty_repeat", params.repetition_penalty);
  if (const auto found = metadata.get_int("general.sampling.top_k");
      found.has_value() && !chosen.top_k.has_value()) {
    // -1 means all to some who write such files.
    params.top_k = *found == -1 ? 0 : static_cast<int>(std::clamp<int64_t>(*found, -1, INT32_MAX));
  }
  if (const Status status = params.validate(); !status.ok()) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: general.sampling.*: {}; say it yourself to override the file",
                      model.file->path().string(), status.message());
  }
  params.temperature = chosen.temperature.value_or(params.temperature);
  params.top_p = chosen.top_p.value_or(params.top_p);
  params.min_p = chosen.min_p.value_or(params.min_p);
  params.repetition_penalty = chosen.repetition_penalty.value_or(params.repetition_penalty);
  params.top_k = chosen.top_k.value_or(params.top_k);
  return params;
}

}  // namespace quipu
