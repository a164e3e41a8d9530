// The composition root: options -> a running engine. The only place that names a concrete backend.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "app/options.h"
#include "backend/backend.h"
#include "base/clock.h"
#include "base/status.h"
#include "engine/engine.h"
#include "format/gguf_writer.h"
#include "format/model_file.h"
#include "kv/host_tier.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace quipu {

// Everything of one loaded model, in order of dependency: later members use earlier ones.
// THREADS: one thread, the engine thread.
struct LoadedModel {
  SteadyClock clock;
  std::unique_ptr<ModelFile> file;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;  // null when the model has no vocabulary
  // Of an encoder's input, where it is not the decoder's; null: `tokenizer` serves both.
  std::unique_ptr<Tokenizer> input_tokenizer;
  std::unique_ptr<HostTier> host_tier;  // null unless asked for
  std::unique_ptr<Engine> engine;
  double load_ms = 0;
  // What was chosen and why, in one line for the user ("KV cache: 448 MiB for 4,096 tokens ...").
  std::string kv_note;

  // What turns a prompt into tokens. REQUIRES: require_tokenizer().
  const Tokenizer& prompt_tokenizer() const {
    return input_tokenizer != nullptr ? *input_tokenizer : *tokenizer;
  }
};

using LoadProgress = std::function<void(uint64_t bytes_done, uint64_t bytes_total)>;

// ERRORS: as open_model_file(), make_cpu_backend(), load_model(), Tokenizer and Engine::create().
Result<std::unique_ptr<LoadedModel>> assemble(const ModelOptions& options,
                                              const LoadProgress& progress = {});

// The tokenizer of a model file: from its metadata or its directory; null when it has none
// (tokenizer.ggml.model absent or "no_vocab").
Result<std::unique_ptr<Tokenizer>> load_tokenizer(
    const ModelFile& file, const std::optional<std::string>& pre_override = {});

// The tokenizer of an encoder's input, where the file has one of its own (tokenizer.input.*, with
// the names of tokenizer.ggml.*); else null.
Result<std::unique_ptr<Tokenizer>> load_input_tokenizer(const ModelFile& file);

// The tokenizer keys a GGUF copy of `file` must carry beyond its metadata: those of a Hugging Face
// directory's tokenizer; none for a GGUF file, or for a directory without a tokenizer.
// ERRORS: as Tokenizer::to_spec().
Result<MetadataEntries> tokenizer_metadata_for(const ModelFile& file);

// ERRORS: kUnsupported when the model has no vocabulary, with what to do.
Status require_tokenizer(const LoadedModel& model);

// ERRORS: kUnsupported for an encoder-decoder model: `what` ("perplexity") needs a decoder alone.
Status require_decoder_only(const LoadedModel& model, std::string_view what);

// Puts what a user gave as the prompt where the model takes it: into the encoder, whose decoder
// then begins with its start token, or into the decoder.
void set_prompt(const ModelConfig& config, std::vector<TokenId> prompt, Request& request);

}  // namespace quipu
