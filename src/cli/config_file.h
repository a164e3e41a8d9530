// Configuration files: TOML whose keys are the flags' names.
//
//   threads = 8                  for every command that has the flag
//   [serve]                      for one command; wins over the above
//   port = 9000
//   api-key = ["one", "two"]     flags that may be repeated
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace quipu {

// One key of a file.
struct ConfigSetting {
  std::string command;              // of its table; empty: of all commands
  std::string name;                 // of the flag, its first long one, without dashes
  std::vector<std::string> values;  // as on a command line
  std::string origin;               // "FILE:LINE"
};

// $XDG_CONFIG_HOME/quipu/config.toml, or under ~/.config; nothing without a home.
std::optional<std::filesystem::path> user_config_path();
std::filesystem::path system_config_path();

// The settings of a file. Names are looked up among the flags of `app`'s commands, also
// those of other commands than the one that runs. Values are checked when they are used.
// ERRORS: kNotFound, kIo; kInvalidArgument with the file's line: not TOML, a key that is no flag
// (with the nearest that is one), a value of a kind that no flag takes.
Result<std::vector<ConfigSetting>> read_config_file(const std::filesystem::path& path,
                                                    const CLI::App& app);

}  // namespace quipu
