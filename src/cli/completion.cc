#include "cli/completion.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace quipu {

namespace {

using Commands = std::vector<const CLI::App*>;

Commands commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

// Every name of a command's flags, as typed.
std::string flags_of(const CLI::App& command) {
  std::string flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags += " --" + name;
    for (const std::string& name : option->get_snames()) flags += " -" + name;
  }
  return flags.empty() ? flags : flags.substr(1);
}

// A value is left to the shell, which completes file names.
std::string bash_script(const Commands& commands) {
  std::string names, cases;
  for (const CLI::App* command : commands) {
    names += (names.empty() ? "" : " ") + command->get_name();
    cases += fmt::format("    {}) words=\"{}\" ;;\n", command->get_name(), flags_of(*command));
  }
  return fmt::format(R"(_quipu() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  COMPREPLY=()
  case ${{COMP_WORDS[1]}} in
{}  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{} --help --version"
  elif [[ $word != -* ]]; then
    return
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _quipu quipu
)",
                     cases, names);
}

std::string zsh_script(const Commands& commands) {
  return "autoload -U +X bashcompinit && bashcompinit\n" + bash_script(commands);
}

std::string fish_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "'";
}

std::string fish_script(const Commands& commands) {
  std::string script;
  for (const CLI::App* command : commands) {
    script += fmt::format("complete -c quipu -n __fish_use_subcommand -f -a {} -d {}\n",
                          command->get_name(), fish_quoted(command->get_description()));
    for (const CLI::Option* option : command->get_options()) {
      std::string names;
      for (const std::string& name : option->get_lnames()) names += " -l " + name;
      for (const std::string& name : option->get_snames()) names += " -s " + name;
      if (names.empty()) continue;  // an argument without a name
      script +=
          fmt::format("complete -c quipu -n '__fish_seen_subcommand_from {}'{}{} -d {}\n",
                      command->get_name(), names, option->get_items_expected_max() > 0 ? " -r" : "",
                      fish_quoted(option->get_description()));
    }
  }
  return script;
}

}  // namespace

void add_completion_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("completion", "Print completion of commands and flags for a shell");
  auto shell = std::make_shared<std::string>();  // shared: with the callback, which is copied
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, shell] {
    const Commands commands = commands_of(app);
    const std::string script = *shell == "bash"  ? bash_script(commands)
                               : *shell == "zsh" ? zsh_script(commands)
                                                 : fish_script(commands);
    std::fwrite(script.data(), 1, script.size(), stdout);
  });
}

}  // namespace quipu
