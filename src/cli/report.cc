#include "cli/report.h"

#include "base/units.h"
#include "cli/console.h"

namespace quipu {

nlohmann::ordered_json generation_to_json(const LoadedModel& model, const GenerationResult& result,
                                          uint64_t seed) {
  const KvCacheSpec& spec = model.engine->kv().spec();
  const RequestStats& stats = result.stats;
  nlohmann::ordered_json kv = {
      {"bytes", model.engine->kv().bytes()},
      {"blocks", model.engine->kv().blocks()},
      {"block_tokens", spec.block_tokens},
      {"format", spec.formats()}};
  if (const KvStorage* inputs = model.engine->input_kv()) {
    kv["input_bytes"] = inputs->bytes();
    kv["input_blocks"] = inputs->blocks();
  }
  return {
      {"text", result.text},
      {"token_ids", result.token_ids},
      {"finish_reason", finish_reason_name(result.finish)},
      {"usage",
       {{"prompt_tokens", result.tokens_read()},
        {"completion_tokens", stats.completion_tokens},
        {"cached_tokens", result.tokens_cached()}}},
      {"timings",
       {{"load_ms", model.load_ms},
        {"prefill_ms", result.prefill_ms()},
        {"prefill_tokens_per_s", result.prefill_tokens_per_s()},
        {"decode_ms", result.decode_ms()},
        {"decode_tokens_per_s", result.decode_tokens_per_s()}}},
      {"kv", std::move(kv)},
      {"logits_hash", fmt::format("{:016x}", result.logits_hash)},
      {"seed", seed},
  };
}

void print_statistics(const OutputOptions& output, const LoadedModel& model,
                      const GenerationResult& result, uint64_t seed) {
  if (output.quiet) return;
  const RequestStats& stats = result.stats;
  print_note(output, "");
  if (result.finish == FinishReason::kContextFull) {
    print_note(
        output,
        fmt::format(
            "The context is full: {} tokens; a larger --ctx-size or --kv-memory gives more room.",
            model.engine->scheduler().token_limit()));
  }
  print_note(output, fmt::format("prompt   {:6} tokens  {:9.1f} ms  {:8.1f} tokens/s  ({} cached)",
                                 result.tokens_read(), result.prefill_ms(),
                                 result.prefill_tokens_per_s(), result.tokens_cached()));
  print_note(output,
             fmt::format("output   {:6} tokens  {:9.1f} ms  {:8.1f} tokens/s  (ended by {})",
                         stats.completion_tokens, result.decode_ms(), result.decode_tokens_per_s(),
                         finish_reason_name(result.finish)));
  print_note(output, fmt::format("load     {:9.1f} ms; {}; {}", model.load_ms,
                                 model.backend->description(), model.kv_note));
  print_note(output, fmt::format("seed     {}", seed));
}

std::string join_ids(const std::vector<TokenId>& ids) {
  std::string text;
  for (const TokenId id : ids) text += (text.empty() ? "" : ",") + std::to_string(id);
  return text;
}

Result<std::vector<TokenId>> encode_chat(const LoadedModel& model,
                                         const nlohmann::ordered_json& messages) {
  QUIPU_RETURN_IF_ERROR(require_tokenizer(model));
  QUIPU_ASSIGN_OR_RETURN(const std::string text, render_chat(model, messages));
  return model.tokenizer->encode(text, {.add_special = false, .parse_special = true});
}

}  // namespace quipu
