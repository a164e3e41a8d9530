#include "app/memory_plan.h"

#include <algorithm>

#include "base/file.h"
#include "base/huge_pages.h"
#include "base/units.h"
#include "format/model_file.h"
#include "model/architecture.h"

namespace quipu {

uint64_t available_memory_bytes() {
  const Result<std::string> text = read_file("/proc/meminfo", kMiB);
  if (!text.ok()) return 4 * kGiB;
  const size_t at = text->find("MemAvailable:");
  return at == std::string::npos ? 4 * kGiB
                                 : std::strtoull(text->c_str() + at + 13, nullptr, 10) * kKiB;
}

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

Result<MemoryPlan> plan_memory(const ModelOptions& options) {
  QUIPU_ASSIGN_OR_RETURN(
      const std::unique_ptr<ModelFile> file,
      open_model_file(options.model, {.weights = options.weights, .threads = 1}));
  QUIPU_ASSIGN_OR_RETURN(const Architecture* architecture, find_architecture(file->metadata()));
  QUIPU_ASSIGN_OR_RETURN(const ModelConfig config, architecture->read_config(file->metadata()));
  QUIPU_RETURN_IF_ERROR(check_streaming(config, options.streaming));
  QUIPU_RETURN_IF_ERROR(options.kv_format.check(config.block_count));
  const int64_t trained = options.streaming.is_on() ? kStreamedTokensMax : config.context_length;
  MemoryPlan plan;
  plan.context_tokens = options.context_length == 0 ? trained : options.context_length;
  if (plan.context_tokens > trained) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a context of {} tokens was asked for; the model was trained for {}",
                      plan.context_tokens, trained);
  }
  for (const TensorInfo& tensor : file->tensors()) plan.weight_bytes += tensor.bytes;
  const KvCacheSpec spec =
      kv_cache_spec_for(config, options.kv_format, options.block_tokens, options.streaming);
  plan.kv_bytes_per_token = spec.bytes_per_token();
  plan.kv_bytes_per_sequence = spec.sequence_bytes(plan.context_tokens, options.prefill_chunk);
  KvChoice kv = choose_kv_memory(options, config, plan.context_tokens);
  plan.kv_bytes = kv.bytes + kv.input_bytes;
  plan.note = std::move(kv.note);
  plan.available_bytes = available_memory_bytes();
  return plan;
}

}  // namespace quipu
