// How tokens are chosen where nobody said: as the model's file says, or else as is usual.
#pragma once

#include <optional>

#include "app/assemble.h"
#include "sample/sampling_params.h"

namespace quipu {

// What a user chose of the parameters that a model's file may have its own values for.
struct SamplingChoice {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
};

// What is usual for the command line, the library and a server's llama.cpp paths; no seed.
SamplingParams usual_sampling();

// `usual`, with what the model's file says (general.sampling.*, which generation_config.json of a
// Hugging Face directory becomes) and, before both, with what was chosen. An encoder-decoder model
// whose file says nothing takes the likeliest token: translations and answers are not drawn.
// ERRORS: kCorruptData for a value of the file out of range that was not chosen otherwise. What was
// chosen is not looked at.
Result<SamplingParams> choose_sampling(const LoadedModel& model, const SamplingChoice& chosen,
                                       SamplingParams usual);

}  // namespace quipu
