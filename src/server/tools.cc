#include "server/tools.h"

#include <algorithm>

#include "server/generation_spec.h"

namespace quipu {

namespace {

constexpr size_t kToolsMax = 256;
constexpr size_t kToolNameBytesMax = 128;

bool is_tool_name(const std::string& name) {
  return !name.empty() && name.size() <= kToolNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 ||
                  std::string_view("_-.:/").find(static_cast<char>(c)) != std::string_view::npos;
         });
}

class ToolReader {
 public:
  ToolReader(Fields& fields, ToolDialect dialect) : fields_(fields), dialect_(dialect) {}

  ToolRequest read() {
    if (const Json* tools = fields_.value("tools"); tools != nullptr && !is_off(*tools)) {
      if (!tools->is_array() || tools->size() > kToolsMax) {
        fail("tools", fmt::format("'tools' is {}; expected an array of at most {}",
                                  json_kind(*tools), kToolsMax));
        return {};
      }
      for (size_t i = 0; i < tools->size(); ++i)
        read_tool((*tools)[i], fmt::format("tools[{}]", i));
    }
    request_.use = request_.choices.empty() ? ToolRequest::Use::kNone : ToolRequest::Use::kAuto;
    request_.parallel = fields_.boolean("parallel_tool_calls").value_or(true);
    if (const Json* choice = fields_.value("tool_choice")) read_choice(*choice);
    return std::move(request_);
  }

 private:
  static bool is_off(const Json& tools) { return tools.is_array() && tools.empty(); }

  void fail(const std::string& param, std::string message) {
    fields_.fail(bad_parameter(param, std::move(message)));
  }

  void read_tool(const Json& tool, const std::string& path) {
    const std::string type = string_member(tool, "type");
    const bool is_function =
        dialect_ == ToolDialect::kAnthropic ? type.empty() || type == "custom" : type == "function";
    if (tool.is_object() && !type.empty() && !is_function) {
      fields_.fail(
          not_supported(path + ".type",
                        fmt::format("'{}.type' is '{}'; this server runs no tools of its own, and "
                                    "takes functions only",
                                    path, type)));
      return;
    }
    const bool nested = dialect_ == ToolDialect::kChat;
    const auto inner = tool.is_object() && nested ? tool.find("function") : tool.end();
    const Json& function = nested && inner != tool.end() ? *inner : tool;
    const std::string place = nested ? path + ".function" : path;
    if (!tool.is_object() || !is_function || !function.is_object() ||
        (nested && inner == tool.end())) {
      fail(path, fmt::format("'{}' is no function; expected {}", path, example()));
      return;
    }
    const std::string name = string_member(function, "name");
    if (!is_tool_name(name)) {
      fail(place + ".name", fmt::format("'{}.name' is '{}'; expected 1 to {} letters, digits, '_', "
                                        "'-', '.', ':' or '/'",
                                        place, name, kToolNameBytesMax));
      return;
    }
    for (const ToolChoice& other : request_.choices) {
      if (other.name == name)
        fail(place + ".name", fmt::format("two tools have the name '{}'", name));
    }
    const char* member = dialect_ == ToolDialect::kAnthropic ? "input_schema" : "parameters";
    const auto given = function.find(member);
    const Json schema = given != function.end() ? *given : Json(nullptr);
    if (!schema.is_null() && !schema.is_object())
      fail(place + "." + member,
           fmt::format("'{}.{}' is {}; expected a schema", place, member, json_kind(schema)));
    Json description = {
        {"name", name},
        {"description", string_member(function, "description")},
        {"parameters",
         schema.is_null() ? Json{{"type", "object"}, {"properties", Json::object()}} : schema}};
    request_.list.push_back({{"type", "function"}, {"function", std::move(description)}});
    request_.choices.push_back({name, schema, fmt::format("{}.{}", place, member)});
  }

  const char* example() const {
    switch (dialect_) {
      case ToolDialect::kChat:
        return "{\"type\": \"function\", \"function\": {\"name\": ..., \"parameters\": ...}}";
      case ToolDialect::kResponses:
        return "{\"type\": \"function\", \"name\": ..., \"parameters\": ...}";
      case ToolDialect::kAnthropic: return "{\"name\": ..., \"input_schema\": ...}";
    }
    return "";
  }

  void read_choice(const Json& choice) {
    const std::string kind =
        choice.is_string() ? choice.get<std::string>() : string_member(choice, "type");
    if (choice.is_object() && dialect_ == ToolDialect::kAnthropic) {
      Fields inner(choice, "tool_choice");
      if (inner.boolean("disable_parallel_tool_use").value_or(false)) request_.parallel = false;
      if (inner.error().has_value()) fields_.fail(*inner.error());
    }
    if (kind == "none") {
      request_.use = ToolRequest::Use::kNone;
    } else if (kind == "auto") {
      return;
    } else if (kind == "required" || kind == "any") {
      require();
    } else if (choice.is_object() && (kind == "function" || kind == "tool")) {
      const auto inner = choice.find("function");
      const Json& holder = inner != choice.end() && inner->is_object() ? *inner : choice;
      choose(string_member(holder, "name"));
    } else if (kind == "allowed_tools" || kind == "custom") {
      fields_.fail(not_supported("tool_choice", fmt::format("'tool_choice' of type '{}' is not "
                                                            "supported by this version of quipu",
                                                            kind)));
    } else {
      fail("tool_choice", "'tool_choice' is none of 'none', 'auto', 'required', and names no tool");
    }
  }

  void require() {
    if (request_.choices.empty()) return fail("tool_choice", "'tool_choice' needs 'tools'");
    request_.use = ToolRequest::Use::kRequired;
  }

  void choose(const std::string& name) {
    require();
    const auto found = std::find_if(request_.choices.begin(), request_.choices.end(),
                                    [&](const ToolChoice& tool) { return tool.name == name; });
    if (found == request_.choices.end())
      return fail("tool_choice",
                  fmt::format("'tool_choice' names '{}', which is none of the tools", name));
    request_.choices = {*found};
    request_.parallel = false;
  }

  Fields& fields_;
  const ToolDialect dialect_;
  ToolRequest request_;
};

}  // namespace

ToolRequest read_tools(Fields& fields, ToolDialect dialect) {
  return ToolReader(fields, dialect).read();
}

}  // namespace quipu
