#include "app/assemble.h"

#include <algorithm>

#include "base/huge_pages.h"
#include "base/units.h"

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
  uint64_t bytes = 0;
  std::string note;
};

// Room for the whole context, but not more than half of the free memory, unless the user says how
// much.
KvChoice choose_kv_memory(const ModelOptions& options, const ModelConfig& config, int64_t context) {
  const KvCacheSpec spec =
      kv_cache_spec_for(config, options.kv_format, options.block_tokens, options.streaming);
  const uint64_t whole_context = spec.sequence_bytes(context, options.prefill_chunk);
  KvChoice choice;
  std::string reason;
  if (options.kv_bytes.has_value()) {
    choice.bytes = *options.kv_bytes;
    reason = "as asked";
  } else {
    const uint64_t half_of_free = available_memory_bytes() / 2;
    // Two contexts: the running sequence, and the finished one whose beginning the next may reuse.
    choice.bytes =
        std::max<uint64_t>(std::min(2 * whole_context, half_of_free), spec.sequence_bytes(1, 1));
    reason =
        choice.bytes < whole_context ? "half of the free memory" : "enough for the context, twice";
  }
  const std::vector<int64_t> blocks =
      divide_kv_bytes(spec, choice.bytes, context, options.prefill_chunk);
  choice.note = fmt::format("KV cache: {} ({}), ", format_bytes(choice.bytes), reason);
  for (size_t g = 0; g < blocks.size(); ++g) {
    const KvGroupSpec& group = spec.groups[g];
    choice.note += fmt::format("{}{} tokens of {} bytes", g == 0 ? "" : ", ",
                               blocks[g] * group.block_tokens, group.bytes_per_token());
    if (group.lifetime.is_windowed())
      choice.note += fmt::format(" in windows of {}", group.lifetime.window);
    if (group.lifetime.sinks > 0)
      choice.note += fmt::format(" after the first {}", group.lifetime.sinks);
  }
  choice.note += fmt::format(" in {}", kv_format_name(options.kv_format));
  if (choice.bytes >= 2 * kMiB)
    choice.note += huge_pages_work() ? ", in huge pages" : ", in small pages";
  return choice;
}

}  // namespace

Result<std::unique_ptr<LoadedModel>> assemble(const ModelOptions& options,
                                              const LoadProgress& progress) {
  auto loaded = std::make_unique<LoadedModel>();
  const int64_t begin_ns = loaded->clock.now_ns();
  const int threads =
      options.threads > 0 ? options.threads : std::max(1, detect_cpu_features().logical_cpus);
  QUIPU_ASSIGN_OR_RETURN(loaded->file, open_model_file(options.model, {.weights = options.weights,
                                                                       .threads = threads}));
  QUIPU_ASSIGN_OR_RETURN(loaded->backend,
                         make_cpu_backend({.threads = threads, .isa = options.isa}));
  QUIPU_ASSIGN_OR_RETURN(loaded->tokenizer, load_tokenizer(*loaded->file, options.pre_tokenizer));
  QUIPU_ASSIGN_OR_RETURN(
      loaded->model,
      load_model(*loaded->file, *loaded->backend,
                 {.batch_tokens_max = std::max(options.prefill_chunk, 512), .progress = progress}));
  const ModelConfig& config = loaded->model->config();
  QUIPU_RETURN_IF_ERROR(check_streaming(config, options.streaming));
  const int64_t context_max =
      options.streaming.is_on() ? kStreamedTokensMax : config.context_length;
  const int64_t context = options.context_length == 0 ? context_max : options.context_length;
  KvChoice kv = choose_kv_memory(options, config, context);
  loaded->kv_note = std::move(kv.note);
  const EngineConfig engine = {.context_length = context,
                               .kv_format = options.kv_format,
                               .block_tokens = options.block_tokens,
                               .kv_bytes = kv.bytes,
                               .prefill_chunk_max = options.prefill_chunk,
                               .sequences_max = options.sequences_max,
                               .keep_kv = options.kv_cache,
                               .streaming = options.streaming};
  QUIPU_ASSIGN_OR_RETURN(loaded->engine,
                         Engine::create(*loaded->model, *loaded->backend, engine, loaded->clock));
  loaded->load_ms = elapsed_ms(begin_ns, loaded->clock.now_ns());
  return loaded;
}

}  // namespace quipu
