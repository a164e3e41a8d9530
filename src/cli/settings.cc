#include "cli/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "cli/flags.h"

namespace quipu {

namespace {

using Json = nlohmann::ordered_json;

// Thrown when a probe is parsed, before its command would run.
struct Parsed {};

// The commands, none of which runs, and nothing of which is taken from the environment. A command's
// own callback stays: it keeps alive what the flags write to.
std::unique_ptr<CLI::App> make_probe(const MakeApp& make_app) {
  int unused = 0;
  std::unique_ptr<CLI::App> app = make_app(unused);
  app->parse_complete_callback([] { throw Parsed(); });
  for (CLI::App* command : app->get_subcommands({})) {
    for (CLI::Option* option : command->get_options()) option->envname("");
  }
  return app;
}

// Throws what CLI11 throws.
void parse_probe(CLI::App& probe, const std::vector<std::string>& arguments) {
  try {
    parse_arguments(probe, arguments);
  } catch (const Parsed&) {
  }
}

// The value of a flag's variable. Empty is as good as unset, as CLI11 has it.
std::string environment_of(const std::string& name) {
  const char* value = std::getenv(environment_name(name).c_str());
  return value == nullptr ? "" : value;
}

std::vector<std::string> words_of(const ConfigSetting& setting) {
  std::vector<std::string> words;
  for (const std::string& value : setting.values) {
    if (value.empty()) {  // after an equals sign CLI11 takes the next word for it
      words.push_back("--" + setting.name);
      words.emplace_back();
    } else {
      words.push_back("--" + setting.name + "=" + value);
    }
  }
  return words;
}

// What of a file concerns this command and is not set yet; its own table first.
void add_settings(const std::vector<ConfigSetting>& file, const CLI::App& command,
                  std::vector<ConfigSetting>& settings) {
  for (const bool of_own_table : {true, false}) {
    for (const ConfigSetting& setting : file) {
      if (setting.command.empty() == of_own_table) continue;
      if (!setting.command.empty() && setting.command != command.get_name()) continue;
      const CLI::Option* option = command.get_option_no_throw("--" + setting.name);
      if (option == nullptr || option->count() > 0 || setting.values.empty()) continue;
      const std::string first = option->get_lnames().front();
      const auto is_same = [&](const ConfigSetting& other) { return other.name == first; };
      if (!environment_of(first).empty() || std::any_of(settings.begin(), settings.end(), is_same))
        continue;
      settings.push_back(setting);
      settings.back().name = first;
    }
  }
}

// Finds the setting whose value its flag refuses.
Status check_values(const MakeApp& make_app, const std::string& command,
                    const std::vector<ConfigSetting>& settings) {
  for (const ConfigSetting& setting : settings) {
    std::vector<std::string> arguments = {"quipu", command};
    for (std::string& word : words_of(setting)) arguments.push_back(std::move(word));
    try {
      parse_probe(*make_probe(make_app), arguments);
    } catch (const CLI::ParseError& error) {
      const bool is_refused = dynamic_cast<const CLI::ValidationError*>(&error) != nullptr ||
                              dynamic_cast<const CLI::ConversionError*>(&error) != nullptr ||
                              dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr;
      if (is_refused)
        return make_error(ErrorCode::kInvalidArgument, "{}: {}", setting.origin, error.what());
    }
  }
  return Status::ok_status();
}

// The files of this invocation, those that win first.
Result<std::vector<std::vector<ConfigSetting>>> read_files(const CLI::App& app,
                                                           const CLI::App& command) {
  std::vector<std::vector<ConfigSetting>> files;
  const CLI::Option* given = command.get_option("--config");
  const std::string chosen =
      given->count() > 0 ? given->results().back() : environment_of("config");
  if (given->count() > 0 || !chosen.empty()) {
    QUIPU_ASSIGN_OR_RETURN(std::vector<ConfigSetting> file, read_config_file(chosen, app));
    files.push_back(std::move(file));
    return files;
  }
  std::vector<std::filesystem::path> paths;
  if (const auto user = user_config_path()) paths.push_back(*user);
  paths.push_back(system_config_path());
  for (const std::filesystem::path& path : paths) {
    Result<std::vector<ConfigSetting>> file = read_config_file(path, app);
    if (!file.ok() && file.status().code() == ErrorCode::kNotFound) continue;
    if (!file.ok()) return file.status();
    files.push_back(std::move(file).value());
  }
  return files;
}

// A value as TOML and JSON show it: a number or a truth where it reads as one.
Json value_of(const std::string& text, bool is_switch) {
  if (is_switch) return text != "false" && text != "0";
  const Json number = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return number.is_number() ? number : Json(text);
}

struct Described {
  Json value;  // null: not set
  std::string origin;
};

Described describe(const CLI::Option& option, const Invocation& invocation) {
  const std::string& name = option.get_lnames().front();
  Described result;
  std::vector<std::string> values;
  if (option.count() > 0) {
    values = option.results();
    result.origin = "flag";
  } else if (const std::string value = environment_of(name); !value.empty()) {
    values = {value};
    result.origin = "environment";
  }
  for (const ConfigSetting& setting : invocation.settings) {
    if (setting.name != name) continue;
    values = setting.values;
    result.origin = setting.origin;
  }
  const bool is_switch = option.get_items_expected_max() == 0;
  if (result.origin.empty()) {
    result.origin = "default";
    if (is_switch) values = {"false"};
    if (!is_switch && !option.get_default_str().empty()) values = {option.get_default_str()};
  }
  if (values.empty()) return result;
  const bool is_secret = name.ends_with("-key");
  if (is_secret && result.origin != "default") {
    result.value = "(not shown)";
  } else if (values.size() == 1) {
    result.value = value_of(values.front(), is_switch);
  } else {
    for (const std::string& value : values) result.value.push_back(value_of(value, is_switch));
  }
  return result;
}

}  // namespace

void add_config_flags(CLI::App& command) {
  // The value is read before the command's own parse.
  command
      .add_option_function<std::string>(
          "--config", [](const std::string&) {},
          "Read this configuration file instead of the user's and the system's")
      ->envname("QUIPU_CONFIG");
  command.add_flag_function(
      "--print-config", [](int64_t) {},
      "Print every flag's value and where it came from, and stop");
}

void parse_arguments(CLI::App& app, const std::vector<std::string>& arguments) {
  std::vector<const char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  app.parse(static_cast<int>(pointers.size()), pointers.data());
}

Result<Invocation> apply_configuration(const MakeApp& make_app,
                                       const std::vector<std::string>& arguments) {
  Invocation invocation{.arguments = arguments, .settings = {}};
  const std::unique_ptr<CLI::App> probe = make_probe(make_app);
  try {
    parse_probe(*probe, arguments);
  } catch (const CLI::ParseError&) {  // --help too; the parse that follows says it
    return invocation;
  }
  const CLI::App* command = probe->get_subcommands().front();
  if (command->get_option_no_throw("--config") == nullptr) return invocation;
  invocation.print = command->count("--print-config") > 0;
  QUIPU_ASSIGN_OR_RETURN(const std::vector<std::vector<ConfigSetting>> files,
                         read_files(*probe, *command));
  for (const std::vector<ConfigSetting>& file : files)
    add_settings(file, *command, invocation.settings);
  QUIPU_RETURN_IF_ERROR(check_values(make_app, command->get_name(), invocation.settings));
  // Behind the command's name, where no "--" of the user's stands before them.
  std::vector<std::string> added;
  for (const ConfigSetting& setting : invocation.settings) {
    for (std::string& word : words_of(setting)) added.push_back(std::move(word));
  }
  invocation.arguments.insert(invocation.arguments.begin() + 2, added.begin(), added.end());
  return invocation;
}

std::string describe_configuration(const MakeApp& make_app, const Invocation& invocation,
                                   const std::vector<std::string>& arguments) {
  const std::unique_ptr<CLI::App> probe = make_probe(make_app);
  parse_probe(*probe, arguments);
  const CLI::App& command = *probe->get_subcommands().front();
  const bool as_json =
      command.get_option_no_throw("--json") != nullptr && command.count("--json") > 0;
  Json settings = Json::object();
  std::string text = fmt::format("[{}]\n", command.get_name());
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    if (name == "help" || name == "config" || name == "print-config") continue;
    const Described described = describe(*option, invocation);
    settings[name] = {{"value", described.value}, {"origin", described.origin}};
    const std::string shown =
        described.value.is_null()
            ? fmt::format("# {}", name)
            : fmt::format("{} = {}", name,
                          described.value.dump(-1, ' ', false, Json::error_handler_t::replace));
    text += fmt::format("{:<44} # {}\n", shown, described.origin);
  }
  if (!as_json) return text;
  return Json({{"command", command.get_name()}, {"settings", settings}})
             .dump(-1, ' ', false, Json::error_handler_t::replace) +
         "\n";
}

}  // namespace quipu
