// Answer formats: what a request says its output must be, in the words of each API. OpenAI's
// response_format and text.format, Anthropic's output_config, llama.cpp's json_schema and grammar,
// vLLM's structured_outputs and guided_*.
#pragma once

#include <optional>
#include <string>

#include "server/api_error.h"
#include "server/json_body.h"
#include "text/constraint.h"

namespace quipu {

// The form of an answer, and the field that asked for it. Absent source: any text.
struct AnswerFormat {
  std::optional<ConstraintSource> source;
  std::string param;
};

// From the fields of OpenAI's, vLLM's and llama.cpp's bodies; one of them at most.
AnswerFormat read_answer_format(Fields& fields);
// From {"type": "text" | "json_object" | "json_schema", "schema": ...}, the value of `param`.
AnswerFormat read_typed_format(const Json& format, const std::string& param, Fields& fields);

// Of a source that does not compile, or cannot be enforced.
ApiError constraint_error(const Status& status, const std::string& param);

}  // namespace quipu
