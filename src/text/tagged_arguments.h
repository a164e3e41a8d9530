// TaggedArgument: one argument of a tool, for models that write them one by one between marks, such
// as <parameter=city>\nLima\n</parameter>: a string as it is, without quotes, and everything else
// as JSON.
//
// A schema says which is which. What may be a string is written as one; the rest of a choice of
// types is then not used. Restrictions of strings are kept where a text without quotes can keep
// them: lists of values, lengths, and expressions that match the whole; the latter two, but for a
// longest length alone, on one line. THREADS: plain values.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace quipu {

struct TaggedArgument {
  std::string name;
  bool is_required = false;
  bool is_text = false;
  // Of a text, one of them at most:
  std::vector<std::string> choices;
  std::string pattern;  // of the whole, in the syntax of Rust's regex crate
  std::optional<int64_t> characters_max;
  nlohmann::ordered_json schema;  // with all that it refers to
  std::string place;              // of the schema in the request
};

// The arguments of a schema (null: none), in its order. `place`: names the schema in messages.
// ERRORS: kUnsupported with the place: a schema that is no list of properties, or a restriction
// that cannot be kept.
Result<std::vector<TaggedArgument>> tagged_arguments(const nlohmann::ordered_json& schema,
                                                     const std::string& place);

}  // namespace quipu
