#include "cli/manual.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "cli/console.h"

namespace quipu {

namespace {

// Text as roff prints it. SOURCE: groff(7), "Escapes": "-" would be a hyphen, "\" begins an escape.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      result += c;
    }
  }
  if (!result.empty() && (result.front() == '.' || result.front() == '\'')) result = "\\&" + result;
  return result;
}

std::string names_of(const CLI::Option& option) {
  std::string names;
  const auto add = [&](const std::string& name) {
    names += (names.empty() ? "\\fB" : ", \\fB") + escaped(name) + "\\fR";
  };
  for (const std::string& name : option.get_snames()) add("-" + name);
  for (const std::string& name : option.get_lnames()) add("--" + name);
  if (names.empty()) return "\\fI" + escaped(option.get_name()) + "\\fR";
  if (option.get_items_expected_max() > 0) names += " \\fIVALUE\\fR";
  return names;
}

std::string command_section(const CLI::App& command) {
  std::string arguments;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional()) arguments += " [\\fI" + escaped(option->get_name(true)) + "\\fR]";
  }
  std::string section =
      fmt::format(".SS \"quipu {0} [FLAGS]\"\n{1}.\n", escaped(command.get_name()),
                  escaped(command.get_description()));
  if (!arguments.empty()) section += ".PP\nArguments:" + arguments + "\n";
  for (const CLI::Option* option : command.get_options()) {
    section += ".TP\n" + names_of(*option) + "\n" + escaped(option->get_description()) + "\n";
    if (!option->get_default_str().empty())
      section += fmt::format("(default: {})\n", escaped(option->get_default_str()));
  }
  return section;
}

std::string manual_page(const CLI::App& app) {
  std::string page = fmt::format(
      R"(.\" Printed by `quipu man` from the program's own flags.
.TH QUIPU 1 "" "quipu {}" "User Commands"
.SH NAME
quipu \- large language models on a CPU, with the KV cache as data worth keeping
.SH SYNOPSIS
.B quipu
.I COMMAND
[\fIFLAGS\fR]
.SH DESCRIPTION
quipu loads a model from a GGUF file or a Hugging Face directory, continues texts, holds
conversations, and serves OpenAI's, Anthropic's and llama.cpp's clients over HTTP. The keys and
values that a model computes for its context are kept in pages, shared between requests, measured,
and exact: the same seeded request gives the same text with a cold and with a warm cache.
.SH COMMANDS
)",
      QUIPU_VERSION);
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    page += command_section(*command);
  page += R"(.SH ENVIRONMENT
Every long flag can be set as a variable: \fB\-\-kv\-memory\fR as \fBQUIPU_KV_MEMORY\fR.
The flag wins over the variable, the variable over the files.
.SH FILES
.TP
.I ~/.config/quipu/config.toml
.TQ
.I /etc/quipu/config.toml
Values of flags, as TOML: keys are the flags' long names, a table is for one command. The user's file wins.
.B \-\-print\-config
says where each value came from.
.SH "EXIT STATUS"
0: done. 1: the machine failed. 2: the input is wrong. 130: interrupted.
.SH EXAMPLES
.EX
quipu run \-n 100 "Once upon a time"
quipu chat \-m model.gguf
quipu serve \-m model.gguf \-\-port 8080
.EE
)";
  return page;
}

}  // namespace

void add_man_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("man", "Print the manual page, for `man -l -`");
  command->callback([&app] { print_out(manual_page(app)); });
}

}  // namespace quipu
