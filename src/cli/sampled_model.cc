#include "cli/sampled_model.h"

namespace quipu {

Result<SampledModel> load_sampled_model(const ModelOptions& options, SamplingFlags& sampling,
                                        const OutputOptions& output) {
  QUIPU_RETURN_IF_ERROR(sampling.resolve().status());
  SampledModel result;
  QUIPU_ASSIGN_OR_RETURN(result.model, load_for_command(options, output));
  QUIPU_RETURN_IF_ERROR(sampling.use_model_defaults(*result.model));
  QUIPU_ASSIGN_OR_RETURN(result.sampling, sampling.resolve());
  return result;
}

}  // namespace quipu
