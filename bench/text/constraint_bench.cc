// What constraints on outputs cost: quipu_constraint_bench [TOKENIZER ...]
//
// A tokenizer is a Hugging Face directory or a GGUF file; without one, the built-in model's. For
// each, the time to arrange its vocabulary, and for each of some forms of an output:
//
//   compile   a source that was not there before; `kept` is the same again, from a ConstraintCache
//   copy      the state of one more output
//   memory    of a compiled one, as the cache counts it and as the process grew
//   mask      the tokens that may come next, at each token of a text of that form
//   accept    going on by that token
//   forced    asking what must come next, at each token
//
// Medians, and the 99th percentile of masks over all tokens of several outputs.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/assemble.h"
#include "text/constraint_cache.h"
#include "text/tool_format.h"

namespace quipu {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kCompiles = 9;
constexpr int kOutputs = 20;

double us_of(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

// REQUIRES: not empty; share: 0 to 1.
double at_share(std::vector<double> values, double share) {
  const auto place = static_cast<size_t>(share * static_cast<double>(values.size() - 1));
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(place));
  return values[place];
}

double resident_kib() {
  size_t all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1024;
}

struct Form {
  std::string name;
  ConstraintSource source;
  std::string text;  // an output of this form
};

constexpr const char* kProse =
    "It was late when the two of them came down from the hill, and the lamps of the village were "
    "lit. Nobody had seen the goat since noon; some said that it had gone to the river, others "
    "that it was asleep behind the mill, as it often was in the summer of 1987.";

Json person_schema() {
  return Json::parse(R"({"type": "object", "required": ["name", "age", "email", "address", "tags"],
    "properties": {
      "name": {"type": "string", "maxLength": 60},
      "age": {"type": "integer", "minimum": 0, "maximum": 150},
      "email": {"type": "string", "format": "email"},
      "address": {"type": "object", "required": ["street", "city", "country"], "properties": {
        "street": {"type": "string"}, "city": {"type": "string"},
        "country": {"enum": ["France", "Germany", "Italy", "Japan", "Peru", "Spain"]}}},
      "tags": {"type": "array", "maxItems": 8, "items": {"type": "string", "pattern": "^[a-z-]+$"}},
      "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}})");
}

Json person() {
  return {{"name", "Inés Quispe Mamani"},
          {"age", 43},
          {"email", "ines.quispe@example.org"},
          {"address", {{"street", "Calle Real 12"}, {"city", "Cusco"}, {"country", "Peru"}}},
          {"tags", {"weaver", "night-owl", "reader"}},
          {"note", kProse}};
}

// As a service with a large data model has it: about 75 KB.
Json large_schema() {
  Json properties = Json::object(), required = Json::array();
  for (int i = 0; i < 100; ++i) {
    Json record = person_schema();
    for (int j = 0; j < 3; ++j)
      record["properties"][fmt::format("extra_{}_{}", i, j)] = {{"type", "number"}};
    properties[fmt::format("record_{}", i)] = std::move(record);
    if (i < 3) required.push_back(fmt::format("record_{}", i));
  }
  return {{"type", "object"}, {"properties", properties}, {"required", required}};
}

// As Python writes it, which is the only form that schemas allow: ", " and ": " outside of strings.
std::string python_json(const Json& value) {
  if (value.is_object() || value.is_array()) {
    std::string text;
    for (const auto& [key, member] : value.items()) {
      text += (text.empty() ? "" : ", ") + (value.is_object() ? Json(key).dump() + ": " : "") +
              python_json(member);
    }
    return value.is_object() ? "{" + text + "}" : "[" + text + "]";
  }
  return value.dump();
}

std::vector<Form> forms(const Tokenizer& tokenizer) {
  std::vector<Form> all;
  const auto add = [&](const char* name, ConstraintKind kind, std::string source,
                       std::string text) {
    all.push_back({name, {kind, std::move(source)}, std::move(text)});
  };
  add("schema", ConstraintKind::kJsonSchema, person_schema().dump(), python_json(person()));
  Json records = Json::object();
  for (int i = 0; i < 3; ++i) records[fmt::format("record_{}", i)] = person();
  add("large schema", ConstraintKind::kJsonSchema, large_schema().dump(), python_json(records));
  add("any object", ConstraintKind::kJsonSchema, R"({"type": "object"})", python_json(records));
  add("free string", ConstraintKind::kJsonSchema, R"({"type": "string"})", Json(kProse).dump());
  add("regex", ConstraintKind::kRegex,
      "[A-Z]{2}-[0-9]{6}( \\([a-z ]+\\))?(, [A-Z]{2}-[0-9]{6}){0,40}",
      "QP-204817 (a red scarf), QP-771203, AB-000042, ZX-918273, LM-456789, QP-204818");
  add("grammar", ConstraintKind::kGbnf,
      "root ::= object\nvalue ::= object | array | string | number | \"true\" | \"false\" | "
      "\"null\"\n"
      "object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\n"
      "array ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n"
      "string ::= \"\\\"\" ([^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" [\"\\\\bfnrt])* \"\\\"\" ws\n"
      "number ::= \"-\"? [0-9]+ (\".\" [0-9]+)? ws\nws ::= [ \\t\\n]*\n",
      python_json(records));
  OutputRules rules;
  for (int i = 0; i < 20; ++i)
    rules.tools.push_back({fmt::format("look_up_{}", i), person_schema(), "tools"});
  rules.many_calls = true;
  ToolFormat format = tool_format_of(tokenizer);
  all.push_back({"text, 20 tools", *output_structure(rules, format), kProse});
  return all;
}

void measure(const Form& form, ConstraintCompiler& compiler, const Tokenizer& tokenizer) {
  std::vector<double> compile, kept, copy, mask, accept, forced;
  std::vector<std::shared_ptr<const Constraint>> held;
  const double before_kib = resident_kib();
  for (int i = 0; i < kCompiles; ++i) {
    ConstraintCache cache(compiler);
    std::shared_ptr<const Constraint> compiled;
    compile.push_back(us_of([&] { compiled = cache.get("", form.source).value(); }));
    kept.push_back(us_of([&] { cache.get("", form.source).value(); }));
    held.push_back(std::move(compiled));
  }
  const double grown_kib = (resident_kib() - before_kib) / kCompiles;
  const std::vector<TokenId> tokens =
      tokenizer.encode(form.text, {.add_special = false, .parse_special = false}).value();
  std::vector<uint32_t> words((tokenizer.vocab_size() + 31) / 32);
  size_t followed = 0;
  for (int output = 0; output < kOutputs; ++output) {
    std::optional<Constraint> state;
    copy.push_back(us_of([&] { state.emplace(held.front()->duplicate().value()); }));
    followed = 0;
    for (const TokenId token : tokens) {
      std::string bytes;
      mask.push_back(us_of([&] { QUIPU_CHECK(state->allowed(words).ok(), "a mask failed"); }));
      forced.push_back(us_of([&] { QUIPU_CHECK(state->forced(bytes).ok(), "forced() failed"); }));
      if ((words[static_cast<size_t>(token) / 32] >> (token % 32) & 1) == 0) break;
      accept.push_back(us_of([&] { QUIPU_CHECK(state->accept(token).ok(), "accept() failed"); }));
      ++followed;
    }
  }
  fmt::print(
      "{:<15} {:>6} {:>9.2f} {:>7.1f} {:>7.0f} {:>7.0f} {:>7.0f} {:>8} {:>7.0f} {:>7.0f} {:>7.0f} "
      "{:>7.0f} {:>7.0f}\n",
      form.name, form.source.text.size(), at_share(compile, 0.5) / 1000, at_share(kept, 0.5),
      at_share(copy, 0.5), static_cast<double>(held.front()->memory_bytes()) / 1024, grown_kib,
      fmt::format("{}/{}", followed, tokens.size()), at_share(mask, 0.5), at_share(mask, 0.99),
      at_share(mask, 1), at_share(accept, 0.5), at_share(forced, 0.5));
}

Status measure_all(const std::string& path) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (std::filesystem::is_directory(path)) {
    QUIPU_ASSIGN_OR_RETURN(tokenizer, Tokenizer::from_hf_directory(path));
  } else {
    QUIPU_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> file, open_model_file(path));
    QUIPU_ASSIGN_OR_RETURN(tokenizer, load_tokenizer(*file));
  }
  ConstraintCompiler compiler(*tokenizer);
  const ConstraintSource small{ConstraintKind::kChoice, R"(["a"])"};
  const double first = us_of([&] { compiler.compile(small).value(); });
  const double second = us_of([&] { compiler.compile(small).value(); });
  fmt::print("{}: {} tokens, arranged in {:.0f} ms\n", path, tokenizer->vocab_size(),
             (first - second) / 1000);
  fmt::print(
      "{:<15} {:>6} {:>9} {:>7} {:>7} {:>7} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7}\n"
      "{:<15} {:>6} {:>9} {:>7} {:>7} {:>7} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7}\n",
      "form", "source", "compile", "kept", "copy", "memory", "grown", "tokens", "mask", "p99",
      "most", "accept", "forced", "", "bytes", "ms", "us", "us", "KiB", "KiB", "", "us", "us", "us",
      "us", "us");
  for (const Form& form : forms(*tokenizer)) measure(form, compiler, *tokenizer);
  return Status::ok_status();
}

}  // namespace
}  // namespace quipu

int main(int argc, char** argv) {
  std::vector<std::string> paths(argv + 1, argv + argc);
  if (paths.empty()) paths.push_back("models/tokenizer");
  for (const std::string& path : paths) {
    const quipu::Status status = quipu::measure_all(path);
    if (status.ok()) continue;
    fmt::print(stderr, "{}: {}\n", path, status.message());
    return 1;
  }
  return 0;
}
