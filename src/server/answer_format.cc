#include "server/answer_format.h"

#include "server/generation_spec.h"

namespace quipu {

namespace {

constexpr size_t kFormatNameBytesMax = 64;

// A schema as JSON, or as JSON in a string, which some clients send.
std::string schema_text(const Json& schema) {
  return schema.is_string() ? schema.get<std::string>() : dump(schema);
}

// Both kinds come in the same fields; only GBNF writes "::=".
ConstraintSource grammar_source(const std::string& text) {
  const bool is_gbnf = text.find("::=") != std::string::npos;
  return {is_gbnf ? ConstraintKind::kGbnf : ConstraintKind::kLark, text};
}

class FormatReader {
 public:
  explicit FormatReader(Fields& fields) : fields_(fields) {}

  void set(ConstraintSource source, const std::string& param) {
    if (format_.source.has_value()) {
      fields_.fail(bad_parameter(
          param, fmt::format("'{}' and '{}' both say what the output must be; expected one of them",
                             format_.param, param)));
      return;
    }
    format_ = {std::move(source), param};
  }

  void schema(const Json* schema, const std::string& param) {
    if (schema != nullptr) set({ConstraintKind::kJsonSchema, schema_text(*schema)}, param);
  }

  void text(const Json* value, const std::string& param, ConstraintKind kind) {
    if (value == nullptr) return;
    if (!value->is_string()) return wrong(param, *value, "a string");
    const std::string text = value->get<std::string>();
    if (text.empty()) return;
    set(kind == ConstraintKind::kRegex ? ConstraintSource{kind, text} : grammar_source(text),
        param);
  }

  void choice(const Json* value, const std::string& param) {
    if (value == nullptr) return;
    if (!value->is_array()) return wrong(param, *value, "an array of strings");
    set({ConstraintKind::kChoice, dump(*value)}, param);
  }

  void typed(const Json& format, const std::string& param) {
    const std::string type = string_member(format, "type");
    if (type == "text") return;
    const auto inner = format.is_object() ? format.find("json_schema") : format.end();
    const Json& holder = inner != format.end() && inner->is_object() ? *inner : format;
    const std::string path = &holder == &format ? param : param + ".json_schema";
    const auto schema = holder.is_object() ? holder.find("schema") : holder.end();
    const bool has_schema = holder.is_object() && schema != holder.end() && !schema->is_null();
    if (type == "json_object") {
      if (has_schema) return set({ConstraintKind::kJsonSchema, schema_text(*schema)}, param);
      return set({ConstraintKind::kJsonSchema, R"({"type": "object"})"}, param);
    }
    if (type != "json_schema") {
      fields_.fail(bad_parameter(param + ".type",
                                 fmt::format("'{}.type' is '{}'; expected 'text', 'json_object' or "
                                             "'json_schema'",
                                             param, type)));
      return;
    }
    if (string_member(holder, "name").size() > kFormatNameBytesMax) {
      fields_.fail(bad_parameter(path + ".name", fmt::format("'{}.name' is longer than {} bytes",
                                                             path, kFormatNameBytesMax)));
    }
    if (!has_schema) {
      fields_.fail(bad_parameter(path + ".schema", fmt::format("'{}.schema' is missing", path),
                                 "missing_required_parameter"));
      return;
    }
    set({ConstraintKind::kJsonSchema, schema_text(*schema)}, path + ".schema");
  }

  // vLLM: {"json" | "regex" | "choice" | "grammar" | "json_object": ...}.
  void structured_outputs(const Json* value) {
    if (value == nullptr) return;
    const std::string param = "structured_outputs";
    if (!value->is_object()) return wrong(param, *value, "an object");
    Fields inner(*value, param);
    schema(inner.value("json"), param + ".json");
    text(inner.value("regex"), param + ".regex", ConstraintKind::kRegex);
    choice(inner.value("choice"), param + ".choice");
    text(inner.value("grammar"), param + ".grammar", ConstraintKind::kGbnf);
    if (inner.boolean("json_object").value_or(false))
      set({ConstraintKind::kJsonSchema, R"({"type": "object"})"}, param + ".json_object");
    refuse_fields(inner, {"structural_tag", "disable_any_whitespace", "whitespace_pattern"});
    if (inner.error().has_value()) fields_.fail(*inner.error());
  }

  AnswerFormat take() { return std::move(format_); }

 private:
  void wrong(const std::string& param, const Json& found, const char* expected) {
    fields_.fail(bad_parameter(
        param, fmt::format("'{}' is {}; expected {}", param, json_kind(found), expected),
        "invalid_type"));
  }

  Fields& fields_;
  AnswerFormat format_;
};

}  // namespace

AnswerFormat read_answer_format(Fields& fields) {
  FormatReader reader(fields);
  if (const Json* format = fields.value("response_format"))
    reader.typed(*format, "response_format");
  reader.schema(fields.value("json_schema"), "json_schema");
  reader.text(fields.value("grammar"), "grammar", ConstraintKind::kGbnf);
  reader.structured_outputs(fields.value("structured_outputs"));
  reader.schema(fields.value("guided_json"), "guided_json");
  reader.text(fields.value("guided_regex"), "guided_regex", ConstraintKind::kRegex);
  reader.choice(fields.value("guided_choice"), "guided_choice");
  reader.text(fields.value("guided_grammar"), "guided_grammar", ConstraintKind::kGbnf);
  return reader.take();
}

AnswerFormat read_typed_format(const Json& format, const std::string& param, Fields& fields) {
  FormatReader reader(fields);
  reader.typed(format, param);
  return reader.take();
}

ApiError constraint_error(const Status& status, const std::string& param) {
  switch (status.code()) {
    case ErrorCode::kInvalidArgument:
      return bad_parameter(param, fmt::format("'{}' cannot be used: {}", param, status.message()));
    case ErrorCode::kUnsupported:
      return bad_parameter(param,
                           fmt::format("'{}' cannot be enforced: {}", param, status.message()),
                           "not_supported");
    case ErrorCode::kResourceExhausted:
      return bad_parameter(param, fmt::format("'{}' is too complex: {}", param, status.message()),
                           "too_complex");
    default: return api_error_from(status);
  }
}

}  // namespace quipu
