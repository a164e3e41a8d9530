// quipu run: one prompt in, streamed text out.
#include <iostream>
#include <iterator>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/report.h"

namespace quipu {
namespace {

constexpr uint64_t kPromptBytesMax = 64 * 1024 * 1024;

struct RunFlags {
  ModelOptions model;
  SamplingFlags sampling;
  OutputOptions output;
  std::string prompt, file, tokens, system;
  bool has_prompt = false, chat = false, echo = false, ignore_eos = false, special = false;
  int64_t max_tokens = 512;
  std::vector<std::string> stop;
};

Result<std::string> read_prompt(const RunFlags& flags) {
  if (!flags.file.empty()) {
    if (flags.has_prompt)
      return make_error(ErrorCode::kInvalidArgument, "give a PROMPT or -f FILE, not both");
    return read_file(flags.file, kPromptBytesMax);
  }
  if (flags.has_prompt && flags.prompt != "-") return flags.prompt;
  if (stdin_is_terminal() && !flags.has_prompt) {
    return make_error(ErrorCode::kInvalidArgument,
                      "no prompt: give one as an argument, with -f FILE, or on standard input");
  }
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

// The prompt's token ids: given as ids, as text, or as one user message in the chat template.
Result<std::vector<TokenId>> prompt_tokens(const RunFlags& flags, const LoadedModel& model,
                                           const std::string& text) {
  if (!flags.tokens.empty()) return parse_token_ids(flags.tokens);
  QUIPU_RETURN_IF_ERROR(require_tokenizer(model));
  if (!flags.chat)
    return model.prompt_tokenizer().encode(text, {.add_special = true, .parse_special = true});
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  messages.push_back({{"role", "user"}, {"content", text}});
  return encode_chat(model, messages);
}

int run_command(RunFlags& flags) {
  const Result<SamplingParams> given = flags.sampling.resolve();
  if (!given.ok()) return report_error(given.status());  // before a model is loaded in vain
  std::string text;
  if (flags.tokens.empty()) {
    Result<std::string> read = read_prompt(flags);
    if (!read.ok()) return report_error(read.status());
    text = std::move(*read);
  }
  Result<std::unique_ptr<LoadedModel>> loaded = load_for_command(flags.model, flags.output);
  if (!loaded.ok()) return report_error(loaded.status());
  LoadedModel& model = **loaded;
  const Status defaults = flags.sampling.use_model_defaults(model);
  if (!defaults.ok()) return report_error(defaults);
  const Result<SamplingParams> sampling = flags.sampling.resolve();
  if (!sampling.ok()) return report_error(sampling.status());
  Result<std::vector<TokenId>> prompt = prompt_tokens(flags, model, text);
  if (!prompt.ok()) return report_error(prompt.status());

  const GenerationParams params = {.sampling = *sampling,
                                   .max_tokens = flags.max_tokens,
                                   .stop = flags.stop,
                                   .ignore_eos = flags.ignore_eos,
                                   .skip_special = !flags.special,
                                   .hash_logits = flags.output.json};
  const InterruptGuard interrupt;
  const bool stream = !flags.output.json;
  if (stream && flags.echo) print_out(text);
  const Result<GenerationResult> result =
      generate(model, std::move(*prompt), params, [&](std::string_view delta) {
        if (stream) print_out(delta);
        return !interrupt.interrupted();
      });
  if (!result.ok()) return report_error(result.status());
  if (flags.output.json) {
    print_json(generation_to_json(model, *result, sampling->seed));
  } else {
    if (model.tokenizer == nullptr) print_out(join_ids(result->token_ids));
    print_out("\n");
    print_statistics(flags.output, model, *result, sampling->seed);
  }
  return interrupt.interrupted() ? kExitInterrupted : kExitOk;
}

}  // namespace

void add_run_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command = app.add_subcommand("run", "Continue a prompt and stream the text");
  CLI::Option* prompt =
      command->add_option("PROMPT", flags->prompt, "The prompt; - or nothing reads standard input");
  command->add_option("-f,--file", flags->file, "Read the prompt from a file");
  command->add_option("--tokens", flags->tokens, "The prompt as token ids, such as 1,2,3");
  command->add_option("-n,--max-tokens,--n-predict", flags->max_tokens, "Most tokens of output")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--stop", flags->stop, "End the output before this text; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--chat", flags->chat,
                    "Put the prompt into the model's chat template as a user's message");
  command->add_option("--system", flags->system, "System message for --chat")->needs("--chat");
  command->add_flag("--echo", flags->echo, "Print the prompt before the output");
  command->add_flag("--ignore-eos", flags->ignore_eos, "Go on after the end-of-text token");
  command->add_flag("--special", flags->special, "Show special tokens in the output");
  add_sampling_flags(*command, flags->sampling);
  add_model_flags(*command, flags->model);
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, prompt, &exit_code] {
    flags->has_prompt = prompt->count() > 0;
    exit_code = run_command(*flags);
  });
}

}  // namespace quipu
