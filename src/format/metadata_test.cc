#include "format/metadata.h"

#include "format/json.h"
#include "format/test_files.h"

namespace quipu {
namespace {

Metadata sample() {
  Metadata metadata;
  metadata.set("bool", true);
  metadata.set("int", int64_t{-3});
  metadata.set("size", uint64_t{3});
  metadata.set("huge", ~uint64_t{0});
  metadata.set("number", 0.5);
  metadata.set("text", std::string("x"));
  metadata.set("sizes", std::vector<uint64_t>{1, 2});
  metadata.set("texts", std::vector<std::string>{"a"});
  return metadata;
}

TEST(Metadata, ConvertsNumbersWhereTheyFit) {
  const Metadata metadata = sample();
  EXPECT_EQ(metadata.get_int("int"), -3);
  EXPECT_EQ(metadata.get_int("size"), 3);
  EXPECT_EQ(metadata.get_int("huge"), std::nullopt);
  EXPECT_EQ(metadata.get_int("number"), std::nullopt);
  EXPECT_EQ(metadata.get_int("bool"), std::nullopt);
  EXPECT_EQ(metadata.get_double("number"), 0.5);
  EXPECT_EQ(metadata.get_double("size"), 3.0);
  EXPECT_EQ(metadata.get_string("text"), "x");
  EXPECT_EQ(metadata.get_string("size"), std::nullopt);
  EXPECT_EQ(metadata.get_ints("sizes"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(metadata.get_doubles("sizes"), (std::vector<double>{1, 2}));
  EXPECT_EQ(metadata.get_strings("texts"), std::vector<std::string>{"a"});
  EXPECT_EQ(metadata.get_bool("absent"), std::nullopt);
}

TEST(Metadata, RequiredKeysNameExpectedAndFound) {
  const Metadata metadata = sample();
  EXPECT_EQ(metadata.require_int("size").value(), 3);
  expect_error(metadata.require_int("absent").status(), ErrorCode::kCorruptData,
               {"'absent'", "missing", "an integer"});
  expect_error(metadata.require_int("text").status(), ErrorCode::kCorruptData,
               {"'text'", "an integer", "a string"});
  expect_error(metadata.require_double("texts").status(), ErrorCode::kCorruptData,
               {"a number", "an array of 1 strings"});
  expect_error(metadata.require_string("number").status(), ErrorCode::kCorruptData,
               {"a string", "the number 0.5"});
}

TEST(Metadata, LaterValuesReplaceEarlierOnesInPlace) {
  Metadata metadata = sample();
  metadata.set("int", std::string("now text"));
  EXPECT_EQ(metadata.entries().size(), 8u);
  EXPECT_EQ(metadata.entries()[1].first, "int");
  EXPECT_EQ(metadata.get_string("int"), "now text");
  const Metadata copy = metadata;
  EXPECT_EQ(copy.get_string("int"), "now text");
}

constexpr JsonLimits kLimits = {.bytes_max = 1000, .depth_max = 5};

void expect_json_refused(std::string_view text, ErrorCode code,
                         std::initializer_list<std::string_view> parts) {
  expect_error(parse_json_object(text, "x.json", kLimits).status(), code, parts);
}

TEST(Json, RefusesWhatIsNotAnObjectWithinLimits) {
  EXPECT_TRUE(parse_json_object(R"({"a": [[[{}]]], "b": "[[[[[[{{{"})", "x.json", kLimits).ok());
  expect_json_refused("", ErrorCode::kCorruptData, {"x.json", "not valid JSON"});
  expect_json_refused("[1]", ErrorCode::kCorruptData,
                      {"expected a JSON object, found an array of 1"});
  expect_json_refused("{\"a\": 1", ErrorCode::kCorruptData, {"not valid JSON"});
  expect_json_refused("{\"a\": \"\xff\"}", ErrorCode::kCorruptData, {"not valid JSON"});
  expect_json_refused("{\"a\": 1e999}", ErrorCode::kCorruptData, {"not valid JSON"});
  expect_json_refused(R"({"a": [[[[[1]]]]]})", ErrorCode::kCorruptData,
                      {"deeper than 5 levels at offset 10"});
  expect_json_refused(R"({"a": {"k": 1, "k": 2}})", ErrorCode::kCorruptData, {"'k'", "twice"});
  expect_json_refused(std::string(1001, ' '), ErrorCode::kResourceExhausted, {"x.json", "limit"});
  // Deep nesting far beyond the limit must not use the stack.
  const std::string deep(900, '[');
  expect_json_refused(deep, ErrorCode::kCorruptData, {"deeper"});
}

TEST(Json, ReadsTypedMembers) {
  const Json json =
      parse_json_object(
          R"({"i": 3, "n": -1, "f": 0.5, "b": true, "s": "x", "null": null, "ids": [1, 2],
          "bad": [1, "x"], "o": {"k": 1},
          "big": 18446744073709551615})",
          "x.json", kLimits)
          .value();
  const JsonReader reader(json, "x.json");
  EXPECT_EQ(reader.get_int("i", 0, 10).value(), 3);
  EXPECT_EQ(reader.get_int("null", 0, 10).value(), std::nullopt);
  EXPECT_EQ(reader.get_number("i").value(), 3.0);
  EXPECT_EQ(reader.get_bool("b").value(), true);
  EXPECT_EQ(reader.get_string("s").value(), "x");
  EXPECT_EQ(reader.get_int_or_ints("i", 0, 10).value(), (std::vector<int64_t>{3}));
  EXPECT_EQ(reader.get_int_or_ints("ids", 0, 10).value(), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ((*reader.get_object("o").value()).require_int("k", 0, 1).value(), 1);
  expect_error(reader.get_int("n", 0, 10).status(), ErrorCode::kCorruptData,
               {"x.json: 'n'", "0 to 10", "-1"});
  expect_error(reader.get_int("big", 0, INT64_MAX).status(), ErrorCode::kCorruptData,
               {"18446744073709551615"});
  expect_error(reader.get_int("f", 0, 10).status(), ErrorCode::kCorruptData, {"the number 0.5"});
  expect_error(reader.get_string("i").status(), ErrorCode::kCorruptData,
               {"'i'", "a string", "the number 3"});
  expect_error(reader.get_int_or_ints("bad", 0, 10).status(), ErrorCode::kCorruptData,
               {"the string 'x'"});
  expect_error(reader.require_int("absent", 0, 1).status(), ErrorCode::kCorruptData,
               {"'absent' is missing"});
  expect_error((*reader.get_object("o").value()).require_int("z", 0, 1).status(),
               ErrorCode::kCorruptData, {"'o.z'"});
}

}  // namespace
}  // namespace quipu
