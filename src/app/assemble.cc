#include "app/assemble.h"

#include <algorithm>

#include "base/huge_pages.h"
#include "base/units.h"
#include "format/fingerprint.h"

namespace quipu {

namespace {

// Memory the system could still give. UNITS: bytes. SOURCE: proc(5), MemAvailable.
uint64_t available_memory_bytes() {
  const Result<std::string> text = read_file("/proc/meminfo", kMiB);
  if (!text.ok()) return 4 * kGiB;
  const size_t at = text->find("MemAvailable:");
  return at == std::string::npos ? 4 * kGiB
                                 : std::strtoull(text->c_str() + at + 13, nullptr, 10) * kKiB;
}

struct KvChoice {
  uint64_t bytes = 0;        // for the tokens of decoders
  uint64_t input_bytes = 0;  // for encoded inputs
  std::string note;
};

// Room for the whole context, but not more than half of the free memory, unless the user says how
// much. An encoder-decoder model shares it between the decoder's tokens and encoded inputs, in the
// proportion of what a whole context of each takes.
KvChoice choose_kv_memory(const ModelOptions& options, const ModelConfig& config, int64_t context) {
  const KvCacheSpec spec =
      kv_cache_spec_for(config, options.kv_format, options.block_tokens, options.streaming);
  const uint64_t own_context = spec.sequence_bytes(context, options.prefill_chunk);
  const KvCacheSpec input_spec =
      config.encoder_decoder ? input_kv_spec_for(config, options.kv_format, options.block_tokens)
                             : KvCacheSpec{};
  const uint64_t input_context = input_spec.sequence_bytes(context, 1);
  const uint64_t whole_context = own_context + input_context;
  uint64_t total = 0;
  std::string reason;
  if (options.kv_bytes.has_value()) {
    total = *options.kv_bytes;
    reason = "as asked";
  } else {
    const uint64_t half_of_free = available_memory_bytes() / 2;
    const uint64_t wanted = static_cast<uint64_t>(options.contexts_wanted) * whole_context;
    total = std::max<uint64_t>(std::min(wanted, half_of_free),
                               spec.sequence_bytes(1, 1) + input_spec.block_bytes());
    reason = total < wanted ? "half of the free memory"
                            : fmt::format("enough for {} whole contexts", options.contexts_wanted);
  }
  KvChoice choice;
  if (config.encoder_decoder) {
    const double share = static_cast<double>(input_context) / static_cast<double>(whole_context);
    const auto blocks = static_cast<uint64_t>(static_cast<double>(total) * share /
                                              static_cast<double>(input_spec.block_bytes()));
    choice.input_bytes = std::max<uint64_t>(blocks, 1) * input_spec.block_bytes();
  }
  choice.bytes = total - std::min(total, choice.input_bytes);
  const std::vector<int64_t> blocks =
      divide_kv_bytes(spec, choice.bytes, context, options.prefill_chunk);
  choice.note = fmt::format("KV cache: {} ({}), ", format_bytes(total), reason);
  for (size_t g = 0; g < blocks.size(); ++g) {
    const KvGroupSpec& group = spec.groups[g];
    choice.note += fmt::format("{}{} tokens of {} bytes", g == 0 ? "" : ", ",
                               blocks[g] * group.block_tokens, group.bytes_per_token());
    if (group.lifetime.is_windowed())
      choice.note += fmt::format(" in windows of {}", group.lifetime.window);
    if (group.lifetime.sinks > 0)
      choice.note += fmt::format(" after the first {}", group.lifetime.sinks);
  }
  choice.note += fmt::format(" in {}", spec.formats());
  if (config.encoder_decoder) {
    choice.note += fmt::format(", and {} tokens of {} bytes of encoded inputs",
                               choice.input_bytes / input_spec.block_bytes() *
                                   static_cast<uint64_t>(input_spec.block_tokens),
                               input_spec.bytes_per_token());
  }
  if (total >= 2 * kMiB) choice.note += huge_pages_work() ? ", in huge pages" : ", in small pages";
  return choice;
}

}  // namespace

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
