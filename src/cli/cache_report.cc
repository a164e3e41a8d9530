#include "cli/cache_report.h"

#include <algorithm>
#include <cstdio>

#include "base/units.h"
#include "base/utf8.h"

namespace quipu {

namespace {

constexpr int64_t kTokensOfContext = 6;

std::string text_of(const LoadedModel& model, std::span<const TokenId> tokens) {
  if (model.tokenizer == nullptr) {
    std::string ids;
    for (const TokenId id : tokens) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    return ids;
  }
  return repair_utf8(model.tokenizer->decode_bytes(tokens, {.skip_special = false}));
}

// On one line, between quotes, not too long.
std::string quoted(const std::string& text) {
  constexpr size_t kBytesMax = 60;
  std::string line;
  for (const char c : text) line += c == '\n' ? "\\n" : c == '\t' ? "\\t" : std::string(1, c);
  if (line.size() > kBytesMax)
    line = line.substr(0, valid_utf8_prefix(line.substr(0, kBytesMax))) + "...";
  return "\"" + line + "\"";
}

std::string_view reason_in_words(MissReason reason) {
  switch (reason) {
    case MissReason::kNone: return "the last token is always computed";
    case MissReason::kNeverSeen: return "never seen after the tokens before it";
    case MissReason::kEvicted: return "it was cached and evicted to make room";
    case MissReason::kExpired: return "it was cached and its time to live is over";
    case MissReason::kCleared: return "it was cached before the cache was emptied";
    case MissReason::kBelowWindow:
      return "the blocks that its sliding windows need are gone, while others are there";
    case MissReason::kOtherSalt: return "it is cached under another salt, which is not shared";
    case MissReason::kNoRoom: return "it is cached, but no block was free for a copy";
    case MissReason::kTierFailed: return "the host tier had lost or damaged it";
    case MissReason::kCacheOff: return "the cache is off";
  }
  return "";
}

std::span<const TokenId> first_missed(const GenerationResult& result) {
  const std::span<const TokenId> prompt = result.prompt_ids;
  const auto at = static_cast<size_t>(result.stats.reuse.reused());
  return at < prompt.size() ? prompt.subspan(at, 1) : std::span<const TokenId>();
}

std::span<const TokenId> before_missed(const GenerationResult& result) {
  const int64_t at = result.stats.reuse.reused();
  const int64_t count = std::min(at, kTokensOfContext);
  return std::span<const TokenId>(result.prompt_ids)
      .subspan(static_cast<size_t>(at - count), static_cast<size_t>(count));
}

void print_line(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

}  // namespace

nlohmann::ordered_json explanation_to_json(const LoadedModel& model,
                                           const GenerationResult& result) {
  const KvExplanation& found = result.stats.reuse;
  nlohmann::ordered_json object = {{"reused", found.reused()},
                                   {"shared", found.shared},
                                   {"tail", found.tail},
                                   {"copied", found.copied},
                                   {"from_tier", found.from_tier},
                                   {"waited_for", found.waited_for},
                                   {"reason", miss_reason_name(found.reason)},
                                   {"position", found.reused()}};
  if (const std::span<const TokenId> missed = first_missed(result); !missed.empty()) {
    object["token"] = missed.front();
    object["text"] = text_of(model, missed);
    object["before"] = text_of(model, before_missed(result));
  }
  if (found.cached_token.has_value())
    object["cached_text"] = text_of(model, std::span(&*found.cached_token, 1));
  if (found.gone > 0) object["gone"] = found.gone;
  if (found.gone_age_ns.has_value())
    object["gone_s"] = static_cast<double>(*found.gone_age_ns) * 1e-9;
  return object;
}

void print_explanation(const LoadedModel& model, const GenerationResult& result) {
  const KvExplanation& found = result.stats.reuse;
  std::string sources;
  const auto add = [&](int64_t tokens, const char* source) {
    if (tokens > 0)
      sources += fmt::format("{}{} {}", sources.empty() ? ": " : ", ", tokens, source);
  };
  add(found.shared - found.from_tier - found.waited_for, "in shared blocks");
  add(found.from_tier, "brought back by the host tier");
  add(found.waited_for, "computed by another request meanwhile");
  add(found.tail, "in a last block taken over");
  add(found.copied, "copied from a block");
  print_line(fmt::format("cache    {} of {} prompt tokens reused{}", found.reused(),
                         found.prompt_tokens, sources));
  const std::span<const TokenId> missed = first_missed(result);
  if (missed.empty()) return;
  print_line(fmt::format(
      "         token {}, {} after {}: {}", found.reused(), quoted(text_of(model, missed)),
      quoted(text_of(model, before_missed(result))), reason_in_words(found.reason)));
  if (found.cached_token.has_value()) {
    print_line(fmt::format("         the cache has {} there",
                           quoted(text_of(model, std::span(&*found.cached_token, 1)))));
  }
  if (found.gone > 0) {
    print_line(fmt::format("         {} more tokens were cached, last used {:.1f} s ago",
                           found.gone, static_cast<double>(found.gone_age_ns.value_or(0)) * 1e-9));
  }
}

nlohmann::ordered_json statistics_to_json(const EngineStatistics& s) {
  const KvCounters& c = s.cache;
  nlohmann::ordered_json misses = nlohmann::ordered_json::object();
  for (size_t i = 0; i < c.misses.size(); ++i) {
    const auto reason = static_cast<MissReason>(i);
    misses[std::string(miss_reason_name(reason))] = c.misses[i];
  }
  nlohmann::ordered_json groups = nlohmann::ordered_json::array();
  for (const KvGroupStatistics& group : s.groups) {
    const KvBlockStates& b = group.blocks;
    groups.push_back({{"window", group.lifetime.window},
                      {"block_bytes", group.block_bytes},
                      {"blocks",
                       {{"free", b.free},
                        {"open", b.open},
                        {"closed", b.closed},
                        {"cached", b.cached},
                        {"in_flight", b.in_flight}}}});
  }
  nlohmann::ordered_json object = {{"prefix_cache_queries", c.tokens_looked_up},
                                   {"prefix_cache_hits", c.tokens_reused},
                                   {"lookups", c.lookups},
                                   {"lookups_hit", c.lookups_hit},
                                   {"tokens_reused",
                                    {{"shared", c.tokens_shared},
                                     {"tail", c.tokens_tail},
                                     {"copied", c.tokens_copied},
                                     {"from_tier", s.scheduler.tokens_from_tier},
                                     {"waited_for", s.scheduler.tokens_waited_for}}},
                                   {"misses", std::move(misses)},
                                   {"blocks",
                                    {{"shared", c.blocks_shared},
                                     {"tails_taken", c.tails_taken},
                                     {"copied", c.blocks_copied},
                                     {"published", c.blocks_published},
                                     {"folded", c.blocks_folded},
                                     {"evicted", c.blocks_evicted},
                                     {"window_evicted", c.window_blocks_evicted},
                                     {"window_left", c.window_blocks_left}}},
                                   {"policy", s.policy},
                                   {"num_preemptions",
                                    {{"stored", s.scheduler.preemptions_stored},
                                     {"recomputed", s.scheduler.preemptions_recomputed}}},
                                   {"requests",
                                    {{"submitted", s.scheduler.requests_submitted},
                                     {"refused", s.scheduler.requests_refused},
                                     {"finished", s.scheduler.requests_finished}}},
                                   {"groups", std::move(groups)},
                                   {"index_bytes", s.index_bytes},
                                   {"indexed_bytes", s.indexed_bytes}};
  if (!s.tier.has_value()) return object;
  const TierStats& t = *s.tier;
  object["host_tier"] = {{"capacity_bytes", s.tier_capacity_bytes},
                         {"bytes", t.bytes},
                         {"raw_bytes", t.raw_bytes},
                         {"blocks", t.blocks},
                         {"stores", t.stores},
                         {"stores_known", t.stores_known},
                         {"stores_refused", t.stores_refused},
                         {"not_worth_storing", c.blocks_not_stored},
                         {"loads", t.loads},
                         {"loads_missing", t.loads_missing},
                         {"loads_corrupt", t.loads_corrupt},
                         {"loads_failed", t.loads_failed},
                         {"evictions", t.evictions},
                         {"promotions", c.promotions},
                         {"promotions_orphaned", c.promotions_orphaned},
                         {"waits_given_up", s.scheduler.tier_waits_given_up},
                         {"bytes_stored", s.transfers.bytes_stored},
                         {"bytes_restored", s.transfers.bytes_restored},
                         {"store_ms", static_cast<double>(s.transfers.store_ns) * 1e-6},
                         {"restore_ms", static_cast<double>(s.transfers.restore_ns) * 1e-6}};
  return object;
}

void print_cache_statistics(const EngineStatistics& s) {
  const KvCounters& c = s.cache;
  const double share = c.tokens_looked_up == 0 ? 0
                                               : 100 * static_cast<double>(c.tokens_reused) /
                                                     static_cast<double>(c.tokens_looked_up);
  print_line(fmt::format("lookups  {} of {} found something; {} of {} tokens reused ({:.1f} %)",
                         c.lookups_hit, c.lookups, c.tokens_reused, c.tokens_looked_up, share));
  std::string misses;
  for (size_t i = 1; i < c.misses.size(); ++i) {
    if (c.misses[i] > 0) {
      misses += fmt::format("{}{} {}", misses.empty() ? "" : ", ", c.misses[i],
                            miss_reason_name(static_cast<MissReason>(i)));
    }
  }
  print_line("misses   " + (misses.empty() ? "none" : misses));
  for (const KvGroupStatistics& group : s.groups) {
    const KvBlockStates& b = group.blocks;
    print_line(fmt::format(
        "blocks   {}: {} free, {} open, {} closed, {} cached, {} in flight, of {} each",
        group.lifetime.is_windowed() ? fmt::format("window of {}", group.lifetime.window) : "all",
        b.free, b.open, b.closed, b.cached, b.in_flight, format_bytes(group.block_bytes)));
  }
  print_line(fmt::format(
      "blocks   {} published, {} folded, {} copied, {} evicted by {}; {} requests preempted",
      c.blocks_published, c.blocks_folded, c.blocks_copied,
      c.blocks_evicted + c.window_blocks_evicted, s.policy,
      s.scheduler.preemptions_stored + s.scheduler.preemptions_recomputed));
  if (!s.tier.has_value()) return;
  const TierStats& t = *s.tier;
  print_line(fmt::format(
      "host     {} blocks, {} as {} of {}; {} stored, {} restored, {} lost or damaged", t.blocks,
      format_bytes(t.raw_bytes), format_bytes(t.bytes), format_bytes(s.tier_capacity_bytes),
      t.stores, t.loads, t.loads_missing + t.loads_corrupt + t.loads_failed));
}

}  // namespace quipu
