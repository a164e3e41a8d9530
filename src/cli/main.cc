// quipu: the command line. Parses, dispatches, and turns every failure into one clear line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/suggest.h"
#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/console.h"
#include "cli/manual.h"
#include "cli/settings.h"

namespace quipu {
namespace {

// Every name the user could have meant: long flags, or commands.
std::vector<std::string> known_names(const CLI::App& app, bool flags) {
  std::vector<std::string> names;
  if (!flags) {
    for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
    return names;
  }
  for (const CLI::App* command : app.get_subcommands()) {
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
  }
  return names;
}

// `first_argument` is what stands where a command is expected.
int report_parse_error(const CLI::App& app, const CLI::ParseError& error,
                       const std::string& first_argument) {
  std::string message = error.what();
  const std::vector<std::string> extra = app.remaining(true);
  if (app.get_subcommands().empty()) {
    message = "no command";
    if (!first_argument.empty()) {
      message = "unknown command '" + first_argument + "'";
      if (const auto suggestion = nearest(first_argument, known_names(app, false)))
        message += "; did you mean '" + *suggestion + "'?";
    }
  } else if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !extra.empty()) {
    const std::string word = extra.front().substr(0, extra.front().find('='));
    const bool is_flag = word.starts_with("-");
    message = std::string(is_flag ? "unknown flag " : "unexpected argument ") + "'" + word + "'";
    if (const auto suggestion = nearest(word, known_names(app, is_flag)))
      message += "; did you mean '" + *suggestion + "'?";
  }
  const auto chosen = app.get_subcommands();
  const std::string help =
      chosen.empty() ? "quipu --help" : "quipu " + chosen.front()->get_name() + " --help";
  std::fprintf(stderr, "quipu: error: %s\nTry '%s'.\n", message.c_str(), help.c_str());
  return kExitBadInput;
}

std::unique_ptr<CLI::App> make_app(int& exit_code) {
  auto app = std::make_unique<CLI::App>(
      "quipu: large-language-model inference with the KV cache as data worth keeping", "quipu");
  app->require_subcommand(1);
  app->set_version_flag("--version", std::string("quipu ") + QUIPU_VERSION);
  app->get_formatter()->column_width(34);
  add_run_command(*app, exit_code);
  add_chat_command(*app, exit_code);
  add_tokenize_command(*app, exit_code);
  add_inspect_command(*app, exit_code);
  add_logits_command(*app, exit_code);
  add_perplexity_command(*app, exit_code);
  add_quantize_command(*app, exit_code);
  add_serve_command(*app, exit_code);
  add_simulate_command(*app, exit_code);
  add_synth_command(*app, exit_code);
  add_bench_command(*app, exit_code);
  add_doctor_command(*app, exit_code);
  for (CLI::App* command : app->get_subcommands({})) add_config_flags(*command);
  add_completion_command(*app);
  add_man_command(*app);
  return app;
}

int run(const std::vector<std::string>& arguments) {
  const Result<Invocation> invocation = apply_configuration(make_app, arguments);
  if (!invocation.ok()) return report_error(invocation.status());
  if (invocation->print) {
    print_out(describe_configuration(make_app, *invocation, arguments));
    return kExitOk;
  }
  int exit_code = kExitOk;
  const std::unique_ptr<CLI::App> app = make_app(exit_code);
  try {
    parse_arguments(*app, invocation->arguments);
  } catch (const CLI::Success& success) {  // --help, --version
    return app->exit(success);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(*app, error, arguments.size() > 1 ? arguments[1] : "");
  }
  return exit_code;
}

}  // namespace
}  // namespace quipu

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  std::vector<std::string> arguments(argv, argv + argc);
  // llama-server's short form, which has two letters and is no flag to CLI11.
  if (argc > 1 && arguments[1] == "serve")
    std::replace(arguments.begin(), arguments.end(), std::string("-np"), std::string("--parallel"));
  return quipu::run(arguments);
}
