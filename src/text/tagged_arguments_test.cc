#include "text/tagged_arguments.h"

#include <gtest/gtest.h>

namespace quipu {
namespace {

using Json = nlohmann::ordered_json;

std::vector<TaggedArgument> read(const char* properties, const char* more = "") {
  const std::string schema =
      fmt::format(R"({{"type": "object", "properties": {}{}}})", properties, more);
  const auto arguments = tagged_arguments(Json::parse(schema), "#");
  EXPECT_TRUE(arguments.ok()) << arguments.status().message();
  return arguments.ok() ? *arguments : std::vector<TaggedArgument>();
}

TEST(TaggedArguments, AreTextWhereTheyMayBe) {
  const auto all = read(R"({
    "a": {"type": "string"}, "b": {"type": ["null", "string"]}, "c": {}, "d": {"const": "x"},
    "e": {"enum": ["x", "y z"]}, "f": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/name"}]},
    "g": {"$ref": "#/$defs/name"},
    "k": {"type": "integer"}, "l": {"enum": ["x", 1]}, "m": {"items": {"type": "string"}},
    "n": {"const": 3}, "o": {"$ref": "#/$defs/pair"}, "p": {"type": ["null", "boolean"]}})",
                        R"(, "required": ["a", "k"],
    "$defs": {"name": {"type": "string", "maxLength": 5}, "pair": {"type": "array"}})");
  ASSERT_EQ(all.size(), 13u);
  for (const TaggedArgument& argument : all) {
    EXPECT_EQ(argument.is_text, argument.name < "h") << argument.name;
    EXPECT_EQ(argument.is_required, argument.name == "a" || argument.name == "k");
    EXPECT_TRUE(argument.schema.contains("$defs")) << argument.name;
    EXPECT_EQ(argument.place, "#/properties/" + argument.name);
  }
  EXPECT_EQ(all[3].choices, std::vector<std::string>{"x"});
  EXPECT_EQ(all[4].choices, (std::vector<std::string>{"x", "y z"}));
  EXPECT_EQ(all[5].characters_max, 5);
  EXPECT_EQ(all[6].characters_max, 5);
  EXPECT_TRUE(tagged_arguments(nullptr, "#")->empty());
  EXPECT_TRUE(tagged_arguments(Json::object(), "#")->empty());
}

TEST(TaggedArguments, KeepWhatATextCanKeep) {
  const auto all = read(R"({"a": {"type": "string", "pattern": "^[a-z]+$"},
                            "b": {"type": "string", "minLength": 2, "maxLength": 4},
                            "c": {"type": "string", "minLength": 2}})");
  EXPECT_EQ(all[0].pattern, "[a-z]+");
  EXPECT_EQ(all[1].pattern, "[^\\n]{2,4}");
  EXPECT_EQ(all[2].pattern, "[^\\n]{2,}");
  EXPECT_FALSE(all[1].characters_max.has_value());
}

TEST(TaggedArguments, RefuseWithThePlaceWhatCannotBeKept) {
  const auto place = [](const char* schema) {
    const auto arguments = tagged_arguments(Json::parse(schema), "tools[0]");
    EXPECT_FALSE(arguments.ok()) << schema;
    EXPECT_EQ(arguments.status().code(), ErrorCode::kUnsupported);
    return arguments.status().message().substr(0, arguments.status().message().find(": "));
  };
  EXPECT_EQ(place(R"({"anyOf": []})"), "tools[0]/anyOf");
  EXPECT_EQ(place(R"({"type": "string"})"), "tools[0]/type");
  EXPECT_EQ(place(R"({"properties": {}, "minProperties": 1})"), "tools[0]/minProperties");
  EXPECT_EQ(place(R"({"properties": {}, "required": ["a"]})"), "tools[0]/required");
  EXPECT_EQ(place(R"({"properties": {"a": {"type": "string", "format": "date"}}})"),
            "tools[0]/properties/a/format");
  EXPECT_EQ(place(R"({"properties": {"a": {"type": "string", "pattern": "a"}}})"),
            "tools[0]/properties/a/pattern");
  EXPECT_EQ(place(R"({"properties": {"a": {"allOf": [{"type": "string"}]}}})"),
            "tools[0]/properties/a/allOf");
  EXPECT_EQ(place(R"({"properties": {"a": {"enum": ["<b>"]}}})"), "tools[0]/properties/a/enum");
  EXPECT_EQ(place(R"({"properties": {"a>": {}}})"), "tools[0]/properties/a>");
  EXPECT_EQ(place(R"({"properties": {"a": {"type": "string", "pattern": "^a$", "maxLength": 3}}})"),
            "tools[0]/properties/a");
  EXPECT_EQ(place("3"), "tools[0]");
  // Around in circles.
  const auto circle =
      tagged_arguments(Json::parse(R"({"properties": {"a": {"$ref": "#/properties/a"}}})"), "#");
  EXPECT_TRUE(circle.ok());
}

}  // namespace
}  // namespace quipu
