#include "text/tagged_arguments.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace quipu {

using Json = nlohmann::ordered_json;

namespace {

constexpr int kReferencesMax = 32;  // one after the other

// Of the schema of all arguments: what says nothing about their values, and what is read here.
constexpr std::array<std::string_view, 14> kRootKeywords = {
    "type",     "properties", "required", "additionalProperties", "title",    "description",
    "$schema",  "$id",        "$defs",    "definitions",          "examples", "default",
    "$comment", "strict"};

// What only a value that is no string has.
constexpr std::array<std::string_view, 14> kKeywordsOfOthers = {"properties",
                                                                "required",
                                                                "additionalProperties",
                                                                "patternProperties",
                                                                "items",
                                                                "prefixItems",
                                                                "minItems",
                                                                "maxItems",
                                                                "minimum",
                                                                "maximum",
                                                                "exclusiveMinimum",
                                                                "exclusiveMaximum",
                                                                "multipleOf",
                                                                "minProperties"};

Status refused(const std::string& place, std::string_view why) {
  return make_error(ErrorCode::kUnsupported,
                    "{}: {}, where the model writes arguments one by one and without quotes", place,
                    why);
}

const Json* member(const Json& schema, const char* name) {
  const auto found = schema.is_object() ? schema.find(name) : schema.end();
  return found != schema.end() ? &*found : nullptr;
}

bool all_strings(const Json& list) {
  return list.is_array() && !list.empty() &&
         std::all_of(list.begin(), list.end(), [](const Json& value) { return value.is_string(); });
}

class Reader {
 public:
  Reader(const Json& root, const std::string& place) : root_(root), place_(place) {}

  Result<std::vector<TaggedArgument>> read() {
    std::vector<TaggedArgument> arguments;
    if (root_.is_null() || root_ == Json(true)) return arguments;
    if (!root_.is_object()) return refused(place_, "it is no object");
    for (const auto& [key, value] : root_.items()) {
      if (std::find(kRootKeywords.begin(), kRootKeywords.end(), key) == kRootKeywords.end())
        return refused(place_ + "/" + key, "it cannot be kept to");
    }
    const Json* type = member(root_, "type");
    if (type != nullptr && *type != "object")
      return refused(place_ + "/type", "it is not 'object'");
    if (const Json* properties = member(root_, "properties"); properties != nullptr) {
      if (!properties->is_object()) return refused(place_ + "/properties", "it is no object");
      for (const auto& [name, schema] : properties->items()) {
        QUIPU_ASSIGN_OR_RETURN(TaggedArgument argument, read_argument(name, schema));
        arguments.push_back(std::move(argument));
      }
    }
    QUIPU_RETURN_IF_ERROR(mark_required(arguments));
    return arguments;
  }

 private:
  Status mark_required(std::vector<TaggedArgument>& arguments) const {
    const Json* required = member(root_, "required");
    if (required == nullptr) return Status::ok_status();
    for (const Json& name : *required) {
      const auto found =
          std::find_if(arguments.begin(), arguments.end(),
                       [&](const TaggedArgument& argument) { return name == argument.name; });
      if (found == arguments.end())
        return refused(place_ + "/required", name.dump() + " is none of the properties");
      found->is_required = true;
    }
    return Status::ok_status();
  }

  // The schema itself, or the one in the same document that it refers to.
  const Json& resolved(const Json& schema) const {
    const Json* at = &schema;
    for (int i = 0; i < kReferencesMax; ++i) {
      const Json* reference = member(*at, "$ref");
      if (reference == nullptr || !reference->is_string()) return *at;
      const std::string text = reference->get<std::string>();
      if (!text.starts_with("#/")) return *at;
      try {
        at = &root_.at(Json::json_pointer(text.substr(1)));
      } catch (const Json::exception&) {
        return *at;  // told when it is compiled
      }
    }
    return *at;
  }

  // Whether a string is among the values.
  bool may_be_text(const Json& given, int depth = 0) const {
    const Json& schema = resolved(given);
    if (depth > kReferencesMax) return false;
    if (const Json* values = member(schema, "enum"); values != nullptr) return all_strings(*values);
    if (const Json* value = member(schema, "const"); value != nullptr) return value->is_string();
    if (const Json* type = member(schema, "type"); type != nullptr) {
      return *type == "string" ||
             (type->is_array() && std::find(type->begin(), type->end(), "string") != type->end());
    }
    for (const char* name : {"anyOf", "oneOf", "allOf"}) {
      const Json* choices = member(schema, name);
      if (choices == nullptr || !choices->is_array()) continue;
      return std::any_of(choices->begin(), choices->end(),
                         [&](const Json& choice) { return may_be_text(choice, depth + 1); });
    }
    return std::none_of(kKeywordsOfOthers.begin(), kKeywordsOfOthers.end(),
                        [&](std::string_view name) { return schema.contains(name); });
  }

  Result<TaggedArgument> read_argument(const std::string& name, const Json& schema) const {
    TaggedArgument argument;
    argument.name = name;
    argument.place = place_ + "/properties/" + name;
    if (name.empty() || name.find_first_of("<>\"\n\r") != std::string::npos)
      return refused(argument.place, "its name cannot be told from a mark");
    argument.is_text = may_be_text(schema);
    argument.schema = schema;
    if (schema.is_object()) {
      for (const char* definitions : {"$defs", "definitions"}) {
        if (const Json* all = member(root_, definitions)) argument.schema[definitions] = *all;
      }
    }
    if (argument.is_text) QUIPU_RETURN_IF_ERROR(restrict_text(schema, argument, 0));
    return argument;
  }

  Status restrict_text(const Json& given, TaggedArgument& argument, int depth) const {
    const Json& schema = resolved(given);
    if (!schema.is_object() || depth > kReferencesMax) return Status::ok_status();
    const auto at = [&](const char* name) { return argument.place + "/" + name; };
    if (member(schema, "allOf") != nullptr) return refused(at("allOf"), "it cannot be kept to");
    if (member(schema, "format") != nullptr) return refused(at("format"), "it cannot be kept to");
    for (const char* name : {"anyOf", "oneOf"}) {
      const Json* choices = member(schema, name);
      if (choices == nullptr || !choices->is_array()) continue;
      const auto text = std::find_if(choices->begin(), choices->end(),
                                     [&](const Json& choice) { return may_be_text(choice); });
      if (text != choices->end()) QUIPU_RETURN_IF_ERROR(restrict_text(*text, argument, depth + 1));
    }
    if (const Json* values = member(schema, "enum"))
      argument.choices = values->get<std::vector<std::string>>();
    if (const Json* value = member(schema, "const")) argument.choices = {value->get<std::string>()};
    if (const Json* pattern = member(schema, "pattern"); pattern != nullptr) {
      const std::string text = pattern->is_string() ? pattern->get<std::string>() : "";
      if (text.size() < 3 || text.front() != '^' || !text.ends_with('$') || text.ends_with("\\$"))
        return refused(at("pattern"), "an expression without '^' and '$' cannot be kept to");
      argument.pattern = text.substr(1, text.size() - 2);
    }
    QUIPU_RETURN_IF_ERROR(restrict_length(schema, argument));
    const int kinds = (argument.choices.empty() ? 0 : 1) + (argument.pattern.empty() ? 0 : 1) +
                      (argument.characters_max.has_value() ? 1 : 0);
    if (kinds > 1) return refused(argument.place, "several restrictions cannot be kept to at once");
    for (const std::string& choice : argument.choices) {
      if (choice.empty() || choice.find_first_of("<\n") != std::string::npos)
        return refused(at("enum"),
                       "a value that is empty or has '<' or line ends cannot be written");
    }
    return Status::ok_status();
  }

  Status restrict_length(const Json& schema, TaggedArgument& argument) const {
    const auto length = [&](const char* name) -> std::optional<int64_t> {
      const Json* value = member(schema, name);
      if (value == nullptr || !value->is_number_integer() || *value < 0) return std::nullopt;
      return value->get<int64_t>();
    };
    const std::optional<int64_t> shortest = length("minLength"), longest = length("maxLength");
    if (shortest.value_or(0) > 0) {
      if (!argument.pattern.empty() || !argument.choices.empty())
        return refused(argument.place, "several restrictions cannot be kept to at once");
      argument.pattern = fmt::format("[^\\n]{{{},{}}}", *shortest,
                                     longest.has_value() ? std::to_string(*longest) : "");
    } else if (longest.has_value()) {
      argument.characters_max = longest;
    }
    return Status::ok_status();
  }

  const Json& root_;
  const std::string& place_;
};

}  // namespace

Result<std::vector<TaggedArgument>> tagged_arguments(const Json& schema, const std::string& place) {
  return Reader(schema, place).read();
}

}  // namespace quipu
