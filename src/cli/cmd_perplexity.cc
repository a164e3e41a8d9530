// quipu perplexity: how well the model predicts a text.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "app/perplexity.h"
#include "cli/commands.h"
#include "cli/flags.h"

namespace quipu {
namespace {

constexpr uint64_t kTextBytesMax = 1024 * 1024 * 1024;

struct PerplexityFlags {
  ModelOptions model;
  OutputOptions output;
  std::string file, tokens_file;
  PerplexityOptions options;
  bool no_bos = false;
};

// Ids separated by white space or commas.
Result<std::vector<TokenId>> read_token_file(const std::string& path) {
  QUIPU_ASSIGN_OR_RETURN(std::string text, read_file(path, kTextBytesMax));
  for (char& c : text) {
    if (c == '\n' || c == '\r' || c == '\t' || c == '[' || c == ']' || c == ',') c = ' ';
  }
  std::vector<TokenId> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    at = std::find_if(at, end, [](char c) { return c != ' '; });
    if (at == end) return ids;
    TokenId id = 0;
    const auto parsed = std::from_chars(at, end, id);
    if (parsed.ec != std::errc() || id < 0) {
      return make_error(ErrorCode::kInvalidArgument, "{}: byte {}: expected a token id", path,
                        at - text.data());
    }
    ids.push_back(id);
    at = parsed.ptr;
  }
}

Result<std::vector<TokenId>> read_tokens(const PerplexityFlags& flags, const LoadedModel& model) {
  if (!flags.tokens_file.empty()) return read_token_file(flags.tokens_file);
  QUIPU_RETURN_IF_ERROR(require_tokenizer(model));
  QUIPU_ASSIGN_OR_RETURN(const std::string text, read_file(flags.file, kTextBytesMax));
  return model.tokenizer->encode(text, {.add_special = false, .parse_special = true});
}

void print_result(const PerplexityFlags& flags, const PerplexityResult& result) {
  if (flags.output.json) {
    nlohmann::ordered_json by_position = nlohmann::ordered_json::array();
    for (size_t i = 0; i < result.nll_by_bucket.size(); ++i) {
      if (result.tokens_by_bucket[i] > 0) by_position.push_back(std::exp(result.nll_by_bucket[i]));
    }
    print_json(
        {{"perplexity", result.perplexity()},
         {"nll", result.nll_sum / static_cast<double>(std::max<int64_t>(1, result.scored_tokens))},
         {"scored_tokens", result.scored_tokens},
         {"windows", result.windows},
         {"seconds", result.seconds},
         {"perplexity_by_sixteenth", by_position}});
    return;
  }
  print_out(
      fmt::format("perplexity {:.4f} over {} tokens in {} windows, {:.1f} s ({:.0f} tokens/s)\n",
                  result.perplexity(), result.scored_tokens, result.windows, result.seconds,
                  static_cast<double>(result.scored_tokens) / std::max(result.seconds, 1e-9)));
}

int perplexity_command(PerplexityFlags& flags) {
  if (flags.file.empty() == flags.tokens_file.empty()) {
    return report_error(
        make_error(ErrorCode::kInvalidArgument,
                   "give a text with -f FILE, or token ids with --tokens-file FILE"));
  }
  Result<std::unique_ptr<LoadedModel>> loaded = load_for_command(flags.model, flags.output);
  if (!loaded.ok()) return report_error(loaded.status());
  LoadedModel& model = **loaded;
  const Status decoder_only = require_decoder_only(model, "perplexity");
  if (!decoder_only.ok()) return report_error(decoder_only);
  const Result<std::vector<TokenId>> tokens = read_tokens(flags, model);
  if (!tokens.ok()) return report_error(tokens.status());
  if (model.tokenizer != nullptr && model.tokenizer->adds_bos() && !flags.no_bos)
    flags.options.bos = model.tokenizer->bos();
  const InterruptGuard interrupt;
  ProgressLine progress(flags.output, "perplexity");
  const Result<PerplexityResult> result = measure_perplexity(
      model, *tokens, flags.options, [&](const PerplexityResult& so_far, int64_t total) {
        progress.update(static_cast<uint64_t>(so_far.windows), static_cast<uint64_t>(total));
        return !interrupt.interrupted();
      });
  if (!result.ok()) return report_error(result.status());
  print_result(flags, *result);
  return kExitOk;
}

}  // namespace

void add_perplexity_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* command = app.add_subcommand("perplexity", "How well the model predicts a text");
  command->add_option("-f,--file", flags->file, "The text");
  command->add_option("--tokens-file", flags->tokens_file,
                      "Token ids instead of text, separated by white space");
  command->add_option("--window", flags->options.window, "Tokens per window (default: the context)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--windows", flags->options.windows_max, "Stop after this many windows")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--no-bos", flags->no_bos, "Do not begin windows with the BOS token");
  add_model_flags(*command, flags->model);
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = perplexity_command(*flags); });
}

}  // namespace quipu
