#include "server/recent_requests.h"

#include <algorithm>

#include "app/generation.h"

namespace quipu {

namespace {

constexpr size_t kTextBytesMax = 64;

std::string text_of(const ServedModel& model, TokenId token) {
  std::string text = model.tokenizer().decode(std::vector<TokenId>{token}, {.skip_special = false});
  if (text.size() > kTextBytesMax) text.resize(kTextBytesMax);
  return text;
}

Json to_json(int64_t number, const RecentRequests::Entry& entry) {
  const RequestStats& stats = entry.outcome.stats;
  const GenerationTimings timings(stats);
  Json shown = {{"number", number},
                {"id", entry.id},
                {"path", entry.path},
                {"ended_ms", entry.ended_ms},
                {"status", entry.outcome.status},
                {"finish", entry.outcome.finish},
                {"prompt_tokens", stats.prompt_tokens},
                {"cached_tokens", stats.cached_tokens},
                {"completion_tokens", stats.completion_tokens},
                {"preemptions", stats.preemptions},
                {"first_token_ms", nullptr},
                {"total_ms", elapsed_ms(stats.submitted_ns, stats.finished_ns)},
                {"decode_tokens_per_s", timings.decode_tokens_per_s()}};
  shown.update(entry.explanation);
  if (stats.first_token_ns.has_value())
    shown["first_token_ms"] = elapsed_ms(stats.submitted_ns, *stats.first_token_ns);
  return shown;
}

}  // namespace

Json explanation_to_json(const ServedModel& model, const KvExplanation& reuse,
                         std::optional<TokenId> differs) {
  Json shown = {{"found",
                 {{"shared", reuse.shared},
                  {"tail", reuse.tail},
                  {"copied", reuse.copied},
                  {"from_tier", reuse.from_tier},
                  {"waited_for", reuse.waited_for}}},
                {"reason", miss_reason_name(reuse.reason)},
                {"gone", reuse.gone},
                {"gone_age_ms", nullptr},
                {"differs", nullptr},
                {"cached", nullptr}};
  if (reuse.gone_age_ns.has_value()) shown["gone_age_ms"] = elapsed_ms(0, *reuse.gone_age_ns);
  if (reuse.reason == MissReason::kNone || !differs.has_value()) return shown;
  shown["differs"] = text_of(model, *differs);
  if (reuse.cached_token.has_value()) shown["cached"] = text_of(model, *reuse.cached_token);
  return shown;
}

void RecentRequests::add(const ServedModel& model, const GenerationSpec& spec, Entry entry) {
  const RequestStats& stats = entry.outcome.stats;
  if (stats.finished_ns == 0) return;  // refused, or the client left: nothing to tell
  const std::vector<TokenId>& prompt = spec.prompts.front().tokens;
  const auto at = static_cast<size_t>(stats.reuse.reused());
  entry.explanation = explanation_to_json(
      model, stats.reuse, at < prompt.size() ? std::optional(prompt[at]) : std::nullopt);
  std::deque<Numbered>& own = entries_[entry.tenant];
  const int64_t own_number = own.empty() ? 1 : own.back().own_number + 1;
  own.push_back({++last_number_, own_number, std::move(entry)});
  if (own.size() > kEntriesMax) own.pop_front();
}

// By number.
std::vector<const RecentRequests::Numbered*> RecentRequests::seen_by(const Caller& caller) const {
  std::vector<const Numbered*> seen;
  for (const auto& [tenant, entries] : entries_) {
    if (!caller.sees(tenant)) continue;
    for (const Numbered& entry : entries) seen.push_back(&entry);
  }
  std::sort(seen.begin(), seen.end(),
            [](const Numbered* a, const Numbered* b) { return a->number < b->number; });
  if (seen.size() > kEntriesMax)
    seen.erase(seen.begin(), seen.end() - static_cast<std::ptrdiff_t>(kEntriesMax));
  return seen;
}

std::optional<Json> RecentRequests::find(const Caller& caller, std::string_view id) const {
  const std::vector<const Numbered*> seen = seen_by(caller);
  for (auto found = seen.rbegin(); found != seen.rend(); ++found) {
    if ((*found)->entry.id != id) continue;
    return to_json(caller.is_operator() ? (*found)->number : (*found)->own_number, (*found)->entry);
  }
  return std::nullopt;
}

Json RecentRequests::since(const Caller& caller, int64_t after) const {
  Json list = Json::array();
  for (const Numbered* seen : seen_by(caller)) {
    if (seen->number <= after) continue;
    list.push_back(to_json(caller.is_operator() ? seen->number : seen->own_number, seen->entry));
    if (caller.is_operator() && !seen->entry.tenant.empty())
      list.back()["tenant"] = tenant_label(seen->entry.tenant);
  }
  return list;
}

}  // namespace quipu
