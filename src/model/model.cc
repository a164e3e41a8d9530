#include "model/model.h"

#include "base/check.h"
#include "model/architecture.h"
#include "model/decoder.h"
#include "model/encoder_decoder.h"

namespace quipu {

Status Model::reserve_input(int64_t) { return Status::ok_status(); }

void Model::encode(const EncoderInput&, const PagedKvView&) {
  QUIPU_CHECK(false, "'{}' has no encoder", config().architecture);
}

Result<std::unique_ptr<Model>> load_model(const ModelFile& file, Backend& backend,
                                          const ModelLoadOptions& options) {
  const std::string path = file.path().string();
  const Result<const Architecture*> architecture = find_architecture(file.metadata());
  if (!architecture.ok()) return architecture.status().with_context(path);
  Result<ModelConfig> config = (*architecture)->read_config(file.metadata());
  if (!config.ok()) return config.status().with_context(path);
  config->context_in_force =
      options.context_length == 0 ? config->context_length : options.context_length;
  WeightLoader loader(file, backend, options.progress);
  if (config->encoder_decoder.has_value()) {
    QUIPU_ASSIGN_OR_RETURN(EncoderDecoderWeights weights,
                           bind_encoder_decoder_weights(file, backend, loader, *config));
    QUIPU_ASSIGN_OR_RETURN(
        std::unique_ptr<EncoderDecoderModel> model,
        EncoderDecoderModel::create(backend, std::move(*config), std::move(weights),
                                    options.batch_tokens_max));
    return std::unique_ptr<Model>(std::move(model));
  }
  QUIPU_ASSIGN_OR_RETURN(DecoderWeights weights, bind_decoder_weights(file, loader, *config));
  QUIPU_ASSIGN_OR_RETURN(std::unique_ptr<DecoderModel> model,
                         DecoderModel::create(backend, std::move(*config), std::move(weights),
                                              options.batch_tokens_max));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace quipu
