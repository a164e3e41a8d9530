// quipu chat: a conversation in the terminal. Each turn starts from the keys and values of the
// turns before it, and says how many tokens that saved.
#include <iostream>

#include "cli/cache_report.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/report.h"
#include "cli/sampled_model.h"

namespace quipu {
namespace {

struct ChatFlags {
  ModelOptions model;
  SamplingFlags sampling;
  OutputOptions output;
  std::string system;
  int64_t max_tokens = 1024;
  bool explain_cache = false;
};

constexpr const char* kHelp =
    "Commands: /help, /clear (forget the conversation), /undo (forget the last turn), /exit.\n"
    "Ctrl-C stops an answer; a second one, or Ctrl-D, leaves.";

class Conversation {
 public:
  Conversation(LoadedModel& model, const ChatFlags& flags, const SamplingParams& sampling)
      : model_(model), flags_(flags), sampling_(sampling) {
    clear();
  }

  void clear() {
    messages_ = nlohmann::ordered_json::array();
    if (!flags_.system.empty())
      messages_.push_back({{"role", "system"}, {"content", flags_.system}});
  }

  void undo() {
    while (!messages_.empty() && messages_.back()["role"] == "assistant")
      messages_.erase(messages_.size() - 1);
    if (!messages_.empty() && messages_.back()["role"] == "user")
      messages_.erase(messages_.size() - 1);
  }

  // One user message and its streamed answer. An error leaves the conversation as it was.
  Status turn(const std::string& text, InterruptGuard& interrupt) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    const Result<GenerationResult> result = answer(interrupt);
    if (!result.ok()) {
      messages_.erase(messages_.size() - 1);
      return result.status();
    }
    messages_.push_back({{"role", "assistant"}, {"content", result->text}});
    report(*result);
    ++sampling_.seed;  // the next turn draws anew, and still reproducibly
    return Status::ok_status();
  }

 private:
  Result<GenerationResult> answer(InterruptGuard& interrupt) {
    QUIPU_ASSIGN_OR_RETURN(std::vector<TokenId> prompt, encode_chat(model_, messages_));
    const GenerationParams params = {.sampling = sampling_,
                                     .max_tokens = flags_.max_tokens,
                                     .explain_cache = flags_.explain_cache};
    return generate(model_, std::move(prompt), params, [&](std::string_view delta) {
      if (!flags_.output.json) print_out(delta);
      return !interrupt.interrupted();
    });
  }

  void report(const GenerationResult& result) {
    if (flags_.output.json) {
      nlohmann::ordered_json object = generation_to_json(model_, result, sampling_.seed);
      if (flags_.explain_cache) object["cache"] = explanation_to_json(model_, result);
      print_json(object);
      return;
    }
    print_out("\n");
    print_note(
        flags_.output,
        fmt::format("[{} prompt tokens, {} cached; {} tokens at {:.1f}/s; first after {:.0f} ms{}]",
                    result.tokens_read(), result.tokens_cached(), result.stats.completion_tokens,
                    result.decode_tokens_per_s(), result.prefill_ms(),
                    result.finish == FinishReason::kContextFull ? "; the context is full" : ""));
    if (flags_.explain_cache) print_explanation(model_, result);
  }

  LoadedModel& model_;
  const ChatFlags& flags_;
  SamplingParams sampling_;
  nlohmann::ordered_json messages_;
};

// Reads turns until the input ends. A Ctrl-C at the prompt leaves.
int converse(Conversation& conversation, const ChatFlags& flags) {
  InterruptGuard interrupt;
  std::string line;
  while (true) {
    if (stdin_is_terminal()) print_out("> ");
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    if (line == "/exit" || line == "/quit" || line == "/bye") break;
    if (line == "/help") {
      print_note(flags.output, kHelp);
    } else if (line == "/clear") {
      conversation.clear();
    } else if (line == "/undo") {
      conversation.undo();
    } else if (line.starts_with("/") && line.find(' ') == std::string::npos) {
      print_note(flags.output, "unknown command " + line + "; /help lists them");
    } else {
      const Status status = conversation.turn(line, interrupt);
      if (!status.ok() && !stdin_is_terminal()) return report_error(status);
      if (!status.ok()) report_error(status);
      interrupt.reset();
    }
  }
  if (stdin_is_terminal()) print_out("\n");
  return kExitOk;
}

int chat_command(ChatFlags& flags) {
  const Result<SampledModel> loaded = load_sampled_model(flags.model, flags.sampling, flags.output);
  if (!loaded.ok()) return report_error(loaded.status());
  LoadedModel& model = *loaded->model;
  // Fails now rather than after the first message when the model cannot chat.
  const Result<std::string> probe =
      render_chat(model, nlohmann::ordered_json::array({{{"role", "user"}, {"content", "hello"}}}));
  if (!probe.ok()) return report_error(probe.status());
  if (stdin_is_terminal()) print_note(flags.output, model.kv_note + "\n" + kHelp);
  Conversation conversation(model, flags, loaded->sampling);
  return converse(conversation, flags);
}

}  // namespace

void add_chat_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand(
      "chat", "Talk with the model; every turn reuses the cache of those before");
  command->add_option("--system", flags->system, "System message");
  command->add_option("-n,--max-tokens,--n-predict", flags->max_tokens, "Most tokens of one answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_flag("--explain-cache", flags->explain_cache,
                    "Say after each turn what was reused, and why not more");
  add_sampling_flags(*command, flags->sampling);
  add_model_flags(*command, flags->model);
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = chat_command(*flags); });
}

}  // namespace quipu
