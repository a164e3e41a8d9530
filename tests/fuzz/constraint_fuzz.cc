// Any bytes as the source of a constraint: it compiles or says why not, in bounded time and memory,
// and what compiled can be followed. The first byte chooses the kind; one of them is a schema of
// arguments that a model writes between marks.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/utf8.h"
#include "text/constraint.h"
#include "text/tool_format.h"

namespace quipu {
namespace {

struct Built {
  std::unique_ptr<Tokenizer> tokenizer =
      Tokenizer::from_hf_directory(std::filesystem::path(QUIPU_SOURCE_DIR) / "models" / "tokenizer")
          .value();
  ConstraintCompiler compiler{*tokenizer};
};

// Follows the output whose next token is always the one in the middle of those that are allowed.
void follow(Constraint& state, size_t vocabulary) {
  std::vector<uint32_t> words((vocabulary + 31) / 32);
  std::vector<TokenId> ids;
  for (int i = 0; i < 24 && !state.is_complete(); ++i) {
    if (const Status status = state.allowed(words); !status.ok()) {
      QUIPU_CHECK(status.code() == ErrorCode::kResourceExhausted, "{}", status.message());
      return;
    }
    ids.clear();
    for (size_t id = 0; id < vocabulary; ++id) {
      if ((words[id / 32] >> (id % 32) & 1) != 0) ids.push_back(static_cast<TokenId>(id));
    }
    std::string forced;
    QUIPU_CHECK(state.forced(forced).ok(), "what must follow is not known");
    QUIPU_CHECK(!ids.empty(), "nothing is allowed, and no error says so");
    const Status accepted = state.accept(ids[ids.size() / 2]);
    QUIPU_CHECK(accepted.ok() || accepted.code() == ErrorCode::kResourceExhausted, "{}",
                accepted.message());
    if (!accepted.ok()) return;
  }
}

// A call of a tool with these arguments; nothing where they are refused.
std::optional<ConstraintSource> call_of(const std::string& schema) {
  const auto json = nlohmann::ordered_json::parse(schema, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return std::nullopt;
  ToolFormat format;
  format.before_name = {{"<", {}}};
  format.after_name = {{">\n", {}}};
  format.tags = {"<", ">\n", "\n</p>\n"};
  OutputRules rules;
  rules.must_call = true;
  rules.tools = {{"a", json, "#", {}}};
  Result<std::vector<TaggedArgument>> arguments = tagged_arguments(json, "#");
  if (!arguments.ok()) {
    QUIPU_CHECK(arguments.status().code() == ErrorCode::kUnsupported &&
                    is_valid_utf8(arguments.status().message()),
                "{}", arguments.status().message());
    return std::nullopt;
  }
  rules.tools.front().arguments = std::move(*arguments);
  return output_structure(rules, format);
}

}  // namespace
}  // namespace quipu

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quipu;
  static Built built;
  if (size == 0) return 0;
  constexpr ConstraintKind kKinds[] = {ConstraintKind::kJsonSchema, ConstraintKind::kRegex,
                                       ConstraintKind::kLark, ConstraintKind::kGbnf,
                                       ConstraintKind::kChoice};
  const size_t choice = data[0] % (std::size(kKinds) + 1);
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::optional<ConstraintSource> source =
      choice == std::size(kKinds) ? call_of(text) : ConstraintSource{kKinds[choice], text};
  if (!source.has_value()) return 0;
  Result<Constraint> compiled = built.compiler.compile(*source);
  if (!compiled.ok()) {
    QUIPU_CHECK(!compiled.status().message().empty(), "a refusal without a reason");
    QUIPU_CHECK(is_valid_utf8(compiled.status().message()), "a refusal that cannot be sent");
    QUIPU_CHECK(compiled.status().code() != ErrorCode::kInternal, "{}",
                compiled.status().message());
    return 0;
  }
  follow(*compiled, built.tokenizer->vocab_size());
  return 0;
}
