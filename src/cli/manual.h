// `quipu man`: the manual page, made from the commands' own flags, so that it cannot fall behind.
#pragma once

#include <CLI/CLI.hpp>

namespace quipu {

// REQUIRES: called once all other commands are there.
void add_man_command(CLI::App& app);

}  // namespace quipu
