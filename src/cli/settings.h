// Where the value of a flag comes from, in this order: the command line, its QUIPU_ variable, the
// user's configuration file, the system's. --config FILE is read instead of both files.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/config_file.h"

namespace quipu {

// Makes the commands' flags anew; with `exit_code`, a command that is parsed runs and sets it.
using MakeApp = std::function<std::unique_ptr<CLI::App>(int& exit_code)>;

struct Invocation {
  std::vector<std::string> arguments;   // with what files add, the program's name first
  std::vector<ConfigSetting> settings;  // what they add
  bool print = false;                   // --print-config
};

// Adds --config and --print-config to a command.
void add_config_flags(CLI::App& command);

// The command line with what configuration files say where neither it nor the environment does.
// What is wrong with the command line itself is left for the parse that follows.
// ERRORS: as read_config_file(); kInvalidArgument for a value that its flag refuses, with its line.
Result<Invocation> apply_configuration(const MakeApp& make_app,
                                       const std::vector<std::string>& arguments);

// --print-config: every flag of the command with its value and where that came from, as TOML or,
// with
// --json, as JSON. Values of keys are not shown. REQUIRES: apply_configuration() gave this.
std::string describe_configuration(const MakeApp& make_app, const Invocation& invocation,
                                   const std::vector<std::string>& arguments);

// CLI11's parse of arguments that lie in strings. Throws what it throws.
void parse_arguments(CLI::App& app, const std::vector<std::string>& arguments);

}  // namespace quipu
