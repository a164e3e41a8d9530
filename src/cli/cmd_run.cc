// quipu run: prompts in, streamed text out. Several prompts run one after the other in one engine,
// so that each can reuse what those before it left in the cache.
#include <algorithm>
#include <iostream>
#include <iterator>

#include "cli/cache_report.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/report.h"
#include "cli/sampled_model.h"

namespace quipu {
namespace {

constexpr uint64_t kPromptBytesMax = 64 * 1024 * 1024;
constexpr uint64_t kSchemaBytesMax = 1024 * 1024;

struct RunFlags {
  ModelOptions model;
  SamplingFlags sampling;
  OutputOptions output;
  std::vector<std::string> prompts;
  std::string file, tokens, system;
  bool chat = false, echo = false, ignore_eos = false, special = false;
  bool explain_cache = false, stats = false;
  int64_t max_tokens = 512;
  std::vector<std::string> stop;
  std::string json_schema, grammar, grammar_file;
};

std::string read_standard_input() {
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

// The prompts' texts; one empty text when the prompt is given as token ids.
Result<std::vector<std::string>> read_prompts(const RunFlags& flags) {
  if (!flags.tokens.empty()) return std::vector<std::string>{""};
  if (!flags.file.empty()) {
    if (!flags.prompts.empty())
      return make_error(ErrorCode::kInvalidArgument, "give a PROMPT or -f FILE, not both");
    QUIPU_ASSIGN_OR_RETURN(std::string text, read_file(flags.file, kPromptBytesMax));
    return std::vector<std::string>{std::move(text)};
  }
  if (flags.prompts.empty()) {
    if (stdin_is_terminal()) {
      return make_error(ErrorCode::kInvalidArgument,
                        "no prompt: give one as an argument, with -f FILE, or on standard input");
    }
    return std::vector<std::string>{read_standard_input()};
  }
  std::vector<std::string> prompts = flags.prompts;
  if (std::count(prompts.begin(), prompts.end(), "-") > 1)
    return make_error(ErrorCode::kInvalidArgument, "standard input (-) can be only one prompt");
  for (std::string& prompt : prompts) {
    if (prompt == "-") prompt = read_standard_input();
  }
  return prompts;
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

// What --json-schema and --grammar ask for; null when they were not given.
Result<std::shared_ptr<const Constraint>> output_constraint(const RunFlags& flags,
                                                            const LoadedModel& model) {
  std::string text = flags.grammar, flag = "--grammar";
  ConstraintKind kind = ConstraintKind::kGbnf;
  if (!flags.json_schema.empty()) {
    kind = ConstraintKind::kJsonSchema;
    text = flags.json_schema;
    flag = "--json-schema";
    const size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos || text[begin] != '{') {
      QUIPU_ASSIGN_OR_RETURN(text, read_file(flags.json_schema, kSchemaBytesMax));
    }
  } else if (!flags.grammar_file.empty()) {
    flag = "--grammar-file";
    QUIPU_ASSIGN_OR_RETURN(text, read_file(flags.grammar_file, kSchemaBytesMax));
  }
  if (text.empty()) return std::shared_ptr<const Constraint>();
  if (kind == ConstraintKind::kGbnf && text.find("::=") == std::string::npos)
    kind = ConstraintKind::kLark;
  QUIPU_RETURN_IF_ERROR(require_tokenizer(model));
  ConstraintCompiler compiler(*model.tokenizer);
  Result<Constraint> compiled = compiler.compile({kind, std::move(text)});
  if (!compiled.ok()) {
    return Status(ErrorCode::kInvalidArgument, compiled.status().message()).with_context(flag);
  }
  return std::make_shared<const Constraint>(std::move(*compiled));
}

// One prompt from its text to its report.
Status run_prompt(const RunFlags& flags, const SamplingParams& sampling, LoadedModel& model,
                  const std::shared_ptr<const Constraint>& constraint, const std::string& text,
                  const InterruptGuard& interrupt) {
  QUIPU_ASSIGN_OR_RETURN(std::vector<TokenId> prompt, prompt_tokens(flags, model, text));
  const GenerationParams params = {.sampling = sampling,
                                   .max_tokens = flags.max_tokens,
                                   .stop = flags.stop,
                                   .ignore_eos = flags.ignore_eos,
                                   .skip_special = !flags.special,
                                   .hash_logits = flags.output.json,
                                   .explain_cache = flags.explain_cache,
                                   .constraint = constraint};
  const bool stream = !flags.output.json;
  if (stream && flags.echo) print_out(text);
  QUIPU_ASSIGN_OR_RETURN(const GenerationResult result,
                         generate(model, std::move(prompt), params, [&](std::string_view delta) {
                           if (stream) print_out(delta);
                           return !interrupt.interrupted();
                         }));
  if (flags.output.json) {
    nlohmann::ordered_json object = generation_to_json(model, result, sampling.seed);
    if (flags.explain_cache) object["cache"] = explanation_to_json(model, result);
    if (flags.stats) object["stats"] = statistics_to_json(model.engine->statistics());
    print_json(object);
    return Status::ok_status();
  }
  if (model.tokenizer == nullptr) print_out(join_ids(result.token_ids));
  print_out("\n");
  print_statistics(flags.output, model, result, sampling.seed);
  if (flags.explain_cache) print_explanation(model, result);
  return Status::ok_status();
}

int run_command(RunFlags& flags) {
  const Result<std::vector<std::string>> prompts = read_prompts(flags);
  if (!prompts.ok()) return report_error(prompts.status());
  const Result<SampledModel> loaded = load_sampled_model(flags.model, flags.sampling, flags.output);
  if (!loaded.ok()) return report_error(loaded.status());
  LoadedModel& model = *loaded->model;
  const auto constraint = output_constraint(flags, model);
  if (!constraint.ok()) return report_error(constraint.status());
  const InterruptGuard interrupt;
  for (const std::string& text : *prompts) {
    const Status status = run_prompt(flags, loaded->sampling, model, *constraint, text, interrupt);
    if (!status.ok()) return report_error(status);
    if (interrupt.interrupted()) return kExitInterrupted;
  }
  if (flags.stats && !flags.output.json) print_cache_statistics(model.engine->statistics());
  return kExitOk;
}

}  // namespace

void add_run_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command = app.add_subcommand("run", "Continue a prompt and stream the text");
  command->add_option("PROMPT", flags->prompts,
                      "Prompts, run one after the other; - or nothing reads standard input");
  command->add_option("-f,--file", flags->file, "Read the prompt from a file");
  command->add_option("--tokens", flags->tokens, "The prompt as token ids, such as 1,2,3");
  command->add_option("-n,--max-tokens,--n-predict", flags->max_tokens, "Most tokens of output")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--stop", flags->stop, "End the output before this text; may be repeated")
      ->allow_extra_args(false);
  CLI::Option* schema = command->add_option(
      "-j,--json-schema", flags->json_schema,
      "The output is JSON that follows this schema: a file, or the schema itself");
  CLI::Option* grammar = command->add_option(
      "--grammar", flags->grammar, "The output follows this grammar (llama.cpp's GBNF, or Lark)");
  CLI::Option* grammar_file =
      command->add_option("--grammar-file", flags->grammar_file, "The same from a file");
  schema->excludes(grammar, grammar_file);
  grammar->excludes(grammar_file);
  command->add_flag("--chat", flags->chat,
                    "Put the prompt into the model's chat template as a user's message");
  command->add_option("--system", flags->system, "System message for --chat")->needs("--chat");
  command->add_flag("--echo", flags->echo, "Print the prompt before the output");
  command->add_flag("--ignore-eos", flags->ignore_eos, "Go on after the end-of-text token");
  command->add_flag("--special", flags->special, "Show special tokens in the output");
  command->add_flag("--explain-cache", flags->explain_cache,
                    "Say what each prompt reused, and why not more");
  command->add_flag("--stats", flags->stats, "Print the counters of the cache");
  add_sampling_flags(*command, flags->sampling);
  add_model_flags(*command, flags->model);
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = run_command(*flags); });
}

}  // namespace quipu
