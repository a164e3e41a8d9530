// How `run` and `chat` begin: flags checked, a model loaded, what the model says about sampling
// taken.
#pragma once

#include <memory>

#include "cli/flags.h"

namespace quipu {

struct SampledModel {
  std::unique_ptr<LoadedModel> model;
  SamplingParams sampling;  // with a seed
};

// Flags that are wrong are told before a model is loaded in vain.
// ERRORS: as SamplingFlags::resolve(), load_for_command() and use_model_defaults().
Result<SampledModel> load_sampled_model(const ModelOptions& options, SamplingFlags& sampling,
                                        const OutputOptions& output);

}  // namespace quipu
