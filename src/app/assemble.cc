#include "app/assemble.h"

#include <algorithm>

#include "app/memory_plan.h"
#include "base/units.h"
#include "format/fingerprint.h"

namespace quipu {

Result<std::unique_ptr<LoadedModel>> assemble(const ModelOptions& options,
                                              const LoadProgress& progress) {
  auto loaded = std::make_unique<LoadedModel>();
  const int64_t begin_ns = loaded->clock.now_ns();
  const int threads =
      options.threads > 0 ? options.threads : std::max(1, detect_cpu_features().logical_cpus);
  QUIPU_ASSIGN_OR_RETURN(
      std::unique_ptr<ModelFile> opened,
      open_model_file(options.model, {.weights = options.weights, .threads = threads}));
  auto file = std::make_unique<FingerprintedFile>(std::move(opened));
  const FingerprintedFile& fingerprinted = *file;
  loaded->file = std::move(file);
  QUIPU_ASSIGN_OR_RETURN(loaded->backend,
                         make_cpu_backend({.threads = threads, .isa = options.isa}));
  QUIPU_ASSIGN_OR_RETURN(loaded->tokenizer, load_tokenizer(*loaded->file, options.pre_tokenizer));
  QUIPU_ASSIGN_OR_RETURN(loaded->input_tokenizer, load_input_tokenizer(*loaded->file));
  QUIPU_ASSIGN_OR_RETURN(
      loaded->model,
      load_model(*loaded->file, *loaded->backend,
                 {.batch_tokens_max = std::max(options.prefill_chunk, 512),
                  .context_length = options.streaming.is_on() ? 0 : options.context_length,
                  .progress = progress}));
  const ModelConfig& config = loaded->model->config();
  QUIPU_RETURN_IF_ERROR(check_streaming(config, options.streaming));
  const int64_t context_max =
      options.streaming.is_on() ? kStreamedTokensMax : config.context_length;
  const int64_t context = options.context_length == 0 ? context_max : options.context_length;
  QUIPU_RETURN_IF_ERROR(options.kv_format.check(config.block_count));
  KvChoice kv = choose_kv_memory(options, config, context);
  loaded->kv_note = std::move(kv.note);
  if (options.kv_host_bytes > 0 && options.kv_cache) {
    loaded->host_tier = std::make_unique<HostTier>(options.kv_host_bytes);
    loaded->kv_note += fmt::format("; {} for evicted blocks", format_bytes(options.kv_host_bytes));
  }
  // Instruction sets add in different orders, so their keys and values differ in the last bits.
  QUIPU_ASSIGN_OR_RETURN(const Isa isa, choose_isa(options.isa));
  // So does LongRoPE's choice of factors, which rests on the context in force.
  const bool long_rope = loaded->file->find("rope_factors_long.weight") != nullptr &&
                         config.context_in_force > config.rope.original_context;
  const std::string fingerprint = fmt::format("{} {}{}", fingerprinted.fingerprint(),
                                              isa_name(isa), long_rope ? " long factors" : "");
  const EngineConfig engine = {.context_length = context,
                               .kv_format = options.kv_format,
                               .block_tokens = options.block_tokens,
                               .kv_bytes = kv.bytes,
                               .input_kv_bytes = kv.input_bytes,
                               .prefill_chunk_max = options.prefill_chunk,
                               .sequences_max = options.sequences_max,
                               .decode_stretch_max = options.decode_stretch_max,
                               .draft_tokens_max = options.draft_tokens_max,
                               .forced_tokens_max = options.forced_tokens_max,
                               .keep_kv = options.kv_cache,
                               .kv_policy = options.kv_policy,
                               .tier = loaded->host_tier.get(),
                               .fingerprint = fingerprint,
                               .streaming = options.streaming};
  QUIPU_ASSIGN_OR_RETURN(loaded->engine,
                         Engine::create(*loaded->model, *loaded->backend, engine, loaded->clock));
  loaded->load_ms = elapsed_ms(begin_ns, loaded->clock.now_ns());
  return loaded;
}

Status require_decoder_only(const LoadedModel& model, std::string_view what) {
  const ModelConfig& config = model.model->config();
  if (!config.encoder_decoder.has_value()) return Status::ok_status();
  return make_error(ErrorCode::kUnsupported,
                    "{}: '{}' is an encoder-decoder model: it writes an answer to an input, so {} "
                    "does not apply to it; use 'run'",
                    model.file->path().string(), config.architecture, what);
}

void set_prompt(const ModelConfig& config, std::vector<TokenId> prompt, Request& request) {
  if (!config.encoder_decoder.has_value()) {
    request.prompt = std::move(prompt);
    return;
  }
  request.input = std::move(prompt);
  request.prompt = {config.encoder_decoder->decoder_start_token};
}

}  // namespace quipu
