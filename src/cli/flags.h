// The flags that commands share, with their environment variables.
//
// Every long flag `--some-flag` can also be set as QUIPU_SOME_FLAG, and in a configuration file
// (cli/settings.h); the flag wins.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/generation.h"
#include "app/options.h"
#include "cli/console.h"

namespace quipu {

// --json and --quiet.
void add_output_flags(CLI::App& command, OutputOptions& output);

// --kv-format, whose value goes to `take`.
void add_kv_format_flag(CLI::App& command, std::function<void(KvFormats)> take);
// -m, --threads, --ctx-size, --kv-memory, --kv-format, ...
void add_model_flags(CLI::App& command, ModelOptions& options);

// --temperature, --top-k, ..., --seed.
struct SamplingFlags {
  SamplingParams params;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;  // "ID=BIAS"

  // What the model's file says where no flag was given. ERRORS: as choose_sampling().
  Status use_model_defaults(const LoadedModel& model);

  // The parameters with a seed chosen when none was given.
  Result<SamplingParams> resolve() const;

  // Set by add_sampling_flags; whether they were given.
  const CLI::Option* temperature = nullptr;
  const CLI::Option* top_k = nullptr;
  const CLI::Option* top_p = nullptr;
  const CLI::Option* min_p = nullptr;
  const CLI::Option* repetition_penalty = nullptr;
};
// REQUIRES: `flags` lives as long as the command.
void add_sampling_flags(CLI::App& command, SamplingFlags& flags);

// The variable of a long flag: "kv-memory" -> "QUIPU_KV_MEMORY".
std::string environment_name(const std::string& flag);
// Gives every long flag of the command its QUIPU_ variable. Call once all flags are added.
void add_environment_names(CLI::App& command);

// What -m (or $QUIPU_MODEL) gave; the built-in model when it gave nothing.
// ERRORS: kNotFound with what to do.
Result<std::filesystem::path> model_path_or_default(const std::filesystem::path& given);

// "1,2,3" -> ids. ERRORS: kInvalidArgument naming the bad item.
Result<std::vector<TokenId>> parse_token_ids(const std::string& text);

// Assembles with a progress line and says what the cache got.
Result<std::unique_ptr<LoadedModel>> load_for_command(ModelOptions options,
                                                      const OutputOptions& output);

}  // namespace quipu
