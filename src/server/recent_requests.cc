#include "server/recent_requests.h"

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
  const KvExplanation& reuse = stats.reuse;
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
                {"decode_tokens_per_s", timings.decode_tokens_per_s()},
                {"found",
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
  if (stats.first_token_ns.has_value())
    shown["first_token_ms"] = elapsed_ms(stats.submitted_ns, *stats.first_token_ns);
  if (reuse.gone_age_ns.has_value()) shown["gone_age_ms"] = elapsed_ms(0, *reuse.gone_age_ns);
  if (!entry.differs.empty()) shown["differs"] = entry.differs;
  if (!entry.cached.empty()) shown["cached"] = entry.cached;
  return shown;
}

}  // namespace

void RecentRequests::add(const ServedModel& model, const GenerationSpec& spec, Entry entry) {
  const RequestStats& stats = entry.outcome.stats;
  if (stats.finished_ns == 0) return;  // refused, or the client left: nothing to tell
  const std::vector<TokenId>& prompt = spec.prompts.front().tokens;
  const auto at = static_cast<size_t>(stats.reuse.reused());
  if (stats.reuse.reason != MissReason::kNone && at < prompt.size()) {
    entry.differs = text_of(model, prompt[at]);
    if (stats.reuse.cached_token.has_value())
      entry.cached = text_of(model, *stats.reuse.cached_token);
  }
  entries_.push_back({++last_number_, std::move(entry)});
  if (entries_.size() > kEntriesMax) entries_.pop_front();
}

Json RecentRequests::since(const Caller& caller, int64_t after) const {
  Json list = Json::array();
  for (const auto& [number, entry] : entries_) {
    if (number <= after || !caller.sees(entry.tenant)) continue;
    list.push_back(to_json(number, entry));
    if (caller.is_operator() && !entry.tenant.empty())
      list.back()["tenant"] = tenant_label(entry.tenant);
  }
  return list;
}

}  // namespace quipu
