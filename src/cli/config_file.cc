#include "cli/config_file.h"

#include <algorithm>
#include <cstdlib>

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include "base/file.h"
#include "base/suggest.h"
#include "base/units.h"

namespace quipu {

namespace {

constexpr uint64_t kConfigBytesMax = kMiB;

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

// The flag of this long name, or any of its other long names; null when the command has none.
const CLI::Option* find_flag(const CLI::App& command, const std::string& name) {
  for (const CLI::Option* option : command.get_options()) {
    const std::vector<std::string>& names = option->get_lnames();
    if (std::find(names.begin(), names.end(), name) != names.end()) return option;
  }
  return nullptr;
}

// What a file may not say: it would be read too late, or says nothing.
bool is_for_people(const std::string& name) {
  return name == "help" || name == "config" || name == "print-config";
}

class Reader {
 public:
  Reader(std::string file, const CLI::App& app) : file_(std::move(file)), app_(app) {}

  Result<std::vector<ConfigSetting>> read(std::string_view text) {
    const toml::parse_result parsed = toml::parse(text, file_);
    if (!parsed) {
      return error_at(parsed.error().source(),
                      fmt::format("not TOML: {}", parsed.error().description()));
    }
    for (const auto& [key, node] : parsed.table()) {
      if (node.is_table()) {
        QUIPU_RETURN_IF_ERROR(take_table(std::string(key.str()), key.source(), *node.as_table()));
      } else {
        QUIPU_RETURN_IF_ERROR(take(commands_of(app_), "", key, node));
      }
    }
    return std::move(settings_);
  }

 private:
  Status error_at(const toml::source_region& place, const std::string& what) const {
    return make_error(ErrorCode::kInvalidArgument, "{}:{}: {}", file_, place.begin.line, what);
  }

  static std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
    const std::optional<std::string> suggestion = nearest(word, known);
    return suggestion.has_value() ? "; did you mean '" + *suggestion + "'?" : "";
  }

  Status take_table(const std::string& name, const toml::source_region& place,
                    const toml::table& table) {
    std::vector<std::string> known;
    for (const CLI::App* command : commands_of(app_)) {
      known.push_back(command->get_name());
      if (command->get_name() != name) continue;
      for (const auto& [key, node] : table) QUIPU_RETURN_IF_ERROR(take({command}, name, key, node));
      return Status::ok_status();
    }
    return error_at(place, fmt::format("[{}] is no command{}", name, did_you_mean(name, known)));
  }

  Status take(const std::vector<const CLI::App*>& commands, const std::string& table,
              const toml::key& key, const toml::node& node) {
    std::string name(key.str());
    std::replace(name.begin(), name.end(), '_', '-');
    const CLI::Option* flag = nullptr;
    for (const CLI::App* command : commands) {
      if (flag == nullptr && !is_for_people(name)) flag = find_flag(*command, name);
    }
    if (flag == nullptr) return unknown(commands, table, name, key.source());
    ConfigSetting setting{.command = table,
                          .name = flag->get_lnames().front(),
                          .values = {},
                          .origin = fmt::format("{}:{}", file_, key.source().begin.line)};
    const toml::array* array = node.as_array();
    if (array != nullptr && flag->get_items_expected_max() < 2) {
      return error_at(node.source(), fmt::format("'{}' takes one value, not a list", name));
    }
    if (array == nullptr) {
      QUIPU_RETURN_IF_ERROR(add_value(*flag, name, node, setting));
    } else {
      for (const toml::node& element : *array)
        QUIPU_RETURN_IF_ERROR(add_value(*flag, name, element, setting));
    }
    settings_.push_back(std::move(setting));
    return Status::ok_status();
  }

  Status unknown(const std::vector<const CLI::App*>& commands, const std::string& table,
                 const std::string& name, const toml::source_region& place) const {
    std::vector<std::string> known;
    for (const CLI::App* command : commands) {
      for (const CLI::Option* option : command->get_options()) {
        for (const std::string& each : option->get_lnames()) {
          if (!is_for_people(each)) known.push_back(each);
        }
      }
    }
    return error_at(place, fmt::format("'{}' is no flag of {}{}", name,
                                       table.empty() ? "any command" : "'" + table + "'",
                                       did_you_mean(name, known)));
  }

  Status add_value(const CLI::Option& flag, const std::string& name, const toml::node& node,
                   ConfigSetting& setting) const {
    const bool is_switch = flag.get_items_expected_max() == 0;
    if (is_switch != node.is_boolean()) {
      return error_at(node.source(),
                      is_switch ? fmt::format("'{}' is on or off: expected true or false", name)
                                : fmt::format("'{}' needs a value, not true or false", name));
    }
    if (const auto* text = node.as_string()) {
      setting.values.push_back(text->get());
    } else if (const auto* whole = node.as_integer()) {
      setting.values.push_back(fmt::format("{}", whole->get()));
    } else if (const auto* number = node.as_floating_point()) {
      setting.values.push_back(fmt::format("{}", number->get()));
    } else if (const auto* on = node.as_boolean()) {
      setting.values.emplace_back(on->get() ? "true" : "false");
    } else {
      return error_at(node.source(),
                      fmt::format("'{}' takes a string, a number, or true or false", name));
    }
    return Status::ok_status();
  }

  std::string file_;
  const CLI::App& app_;
  std::vector<ConfigSetting> settings_;
};

}  // namespace

std::optional<std::filesystem::path> user_config_path() {
  const char* xdg = std::getenv("XDG_CONFIG_HOME");
  if (xdg != nullptr && xdg[0] == '/') return std::filesystem::path(xdg) / "quipu" / "config.toml";
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') return std::nullopt;
  return std::filesystem::path(home) / ".config" / "quipu" / "config.toml";
}

std::filesystem::path system_config_path() { return "/etc/quipu/config.toml"; }

Result<std::vector<ConfigSetting>> read_config_file(const std::filesystem::path& path,
                                                    const CLI::App& app) {
  QUIPU_ASSIGN_OR_RETURN(const std::string text, read_file(path, kConfigBytesMax));
  return Reader(path.string(), app).read(text);
}

}  // namespace quipu
