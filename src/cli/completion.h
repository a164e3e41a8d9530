// Shell completion, made from the program's own commands and flags.
#pragma once

#include <CLI/CLI.hpp>

namespace quipu {

// `quipu completion SHELL`: prints a script that the shell reads.
void add_completion_command(CLI::App& app);

}  // namespace quipu
