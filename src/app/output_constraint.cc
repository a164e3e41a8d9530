#include "app/output_constraint.h"

#include <algorithm>
#include <charconv>

namespace quipu {

namespace {

constexpr char kControlMark = '\xff';  // Constraint::forced()

}  // namespace

Result<std::shared_ptr<TokenConstraint>> OutputConstraint::start(const Constraint& compiled,
                                                                 const Tokenizer& tokenizer) {
  Result<Constraint> state = compiled.duplicate();
  if (!state.ok()) return state.status();
  return std::shared_ptr<TokenConstraint>(new OutputConstraint(std::move(*state), tokenizer));
}

void OutputConstraint::guess(int tokens_max, std::vector<TokenId>& tokens) const {
  std::string forced;
  if (!state_.forced(forced).ok()) return;
  const size_t end = tokens.size() + static_cast<size_t>(tokens_max);
  for (std::string_view rest = forced; !rest.empty() && tokens.size() < end;) {
    const std::string_view text = rest.substr(0, rest.find(kControlMark));
    if (!text.empty() && !guess_text(text, tokens)) break;
    rest.remove_prefix(text.size());
    if (rest.empty()) break;
    TokenId id = 0;  // 0xff, '[', the id, ']'
    if (rest.size() < 4) break;
    const auto read = std::from_chars(rest.data() + 2, rest.data() + rest.size(), id);
    if (read.ec != std::errc() || read.ptr == rest.data() + rest.size()) break;
    tokens.push_back(id);
    rest.remove_prefix(static_cast<size_t>(read.ptr + 1 - rest.data()));
  }
  tokens.resize(std::min(tokens.size(), end));
}

// The tokens that a model is likely to write the text with: those of the text behind the last
// token, or behind a line's end, from where one of them begins with it. False: there are none.
bool OutputConstraint::guess_text(std::string_view text, std::vector<TokenId>& tokens) const {
  std::optional<TokenId> before = tokens.empty() ? last_ : std::optional(tokens.back());
  if (before.has_value() && tokenizer_.is_special(*before)) before.reset();
  const std::string_view contexts[] = {before.has_value() ? tokenizer_.piece(*before) : "", "\n"};
  for (const std::string_view context : contexts) {
    const Result<std::vector<TokenId>> ids = tokenizer_.encode(
        std::string(context) + std::string(text), {.add_special = false, .parse_special = false});
    if (!ids.ok()) return false;
    size_t spelled = 0;
    auto from = ids->end();
    while (from != ids->begin() && spelled < text.size())
      spelled += tokenizer_.piece(*--from).size();
    if (spelled != text.size()) continue;
    tokens.insert(tokens.end(), from, ids->end());
    return true;
  }
  return false;
}

}  // namespace quipu
