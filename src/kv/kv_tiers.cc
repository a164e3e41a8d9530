// The cache and the tier below it: what goes down when it is evicted, and how it comes back.
#include <algorithm>

#include "kv/kv_cache.h"

namespace quipu {

std::string_view miss_reason_name(MissReason reason) {
  switch (reason) {
    case MissReason::kNone: return "none";
    case MissReason::kNeverSeen: return "never_seen";
    case MissReason::kEvicted: return "evicted";
    case MissReason::kExpired: return "expired";
    case MissReason::kCleared: return "cleared";
    case MissReason::kBelowWindow: return "below_window";
    case MissReason::kOtherSalt: return "other_salt";
    case MissReason::kNoRoom: return "no_room";
    case MissReason::kTierFailed: return "tier_failed";
    case MissReason::kCacheOff: return "cache_off";
  }
  return "unknown";
}

// ---- going down ----

void KvCache::store_before_eviction(NodeId node, int group) {
  if (config_.tier == nullptr || !index_.has_block(node, group)) return;
  if (!index_.may_outlive(node) ||
      !cost_.restoring_is_cheaper(config_.block_tokens, group_block_bytes(group))) {
    ++counters_.blocks_not_stored;
    return;
  }
  stores_.push_back({group, index_.block_id(node, group), {index_.key(node), group}});
  ++counters_.blocks_stored;
}

bool KvCache::would_store(const SequenceKv& sequence) const {
  if (config_.tier == nullptr || sequence.path.empty()) return false;
  uint64_t bytes = 0;
  for (int group = 0; group < num_groups(); ++group) bytes += group_block_bytes(group);
  return cost_.restoring_is_cheaper(config_.block_tokens, bytes);
}

void KvCache::take_transfers(std::vector<KvStore>& stores, std::vector<KvLoad>& loads) {
  stores.insert(stores.end(), stores_.begin(), stores_.end());
  loads.insert(loads.end(), loads_.begin(), loads_.end());
  stores_.clear();
  loads_.clear();
}

// ---- coming back ----

// Which blocks would have to come for a prompt to begin after `blocks` blocks.
struct KvCache::PromotionPlan {
  std::vector<NodeId> path;                // what the index has of the prompt, windows aside
  std::vector<BlockKey> keys;              // of the prompt's blocks, from the first
  int blocks = 0;                          // whole ones
  int64_t tokens = 0;                      // of those and of a tail after them; 0: nothing to gain
  std::vector<std::pair<int, int>> loads;  // (block, group), by block
  std::vector<std::pair<int, int>> kept;   // the same of what is needed and here already
  std::vector<int> loads_of;               // SHAPE: [groups]
  uint64_t bytes = 0;
};

// `wanted`: of `tokens`, what may be reused.
KvCache::PromotionPlan KvCache::plan_promotion(const SequenceKv& sequence,
                                               std::span<const TokenId> tokens,
                                               std::span<const TokenId> wanted) {
  const auto block = static_cast<size_t>(config_.block_tokens);
  const auto groups = static_cast<size_t>(num_groups());
  const NodeId root = index_.root(sequence.salt);
  PromotionPlan plan;
  plan.path = index_.closed_path(root, wanted);
  plan.loads_of.resize(groups);
  for (const NodeId node : plan.path) plan.keys.push_back(index_.key(node));
  const bool first_keeps_everything = !index_.is_windowed(0);
  WindowScan windows(lifetimes_, config_.block_tokens);
  std::vector<TierKey> asked(groups);
  std::vector<uint8_t> found(groups);
  for (size_t i = 0; (i + 1) * block <= wanted.size(); ++i) {
    const bool in_index = i < plan.path.size();
    if (!in_index) {
      const BlockKey& parent = i == 0 ? index_.key(root) : plan.keys[i - 1];
      plan.keys.push_back(block_key(parent, wanted.subspan(i * block, block)));
    }
    for (size_t g = 0; g < groups; ++g) asked[g] = {plan.keys[i], static_cast<int32_t>(g)};
    config_.tier->lookup(asked, found);
    for (size_t g = 0; g < groups; ++g) {
      if (in_index && index_.has_block(plan.path[i], static_cast<int>(g))) found[g] = 1;
      windows.add(g, found[g] != 0);
    }
    // Past a hole in the group that keeps everything nothing can be reused.
    if (first_keeps_everything && found[0] == 0) break;
    if (windows.is_whole(static_cast<int64_t>((i + 1) * block)))
      plan.blocks = static_cast<int>(i) + 1;
  }
  plan.tokens = static_cast<int64_t>(plan.blocks) * config_.block_tokens;
  plan.keys.resize(static_cast<size_t>(plan.blocks));
  // Where memory has a whole block, a tail has no place.
  if (plan.path.size() <= plan.keys.size()) plan_tail(plan, root, tokens);
  // A tail may end past what may be reused: windows are looked at from where the look-up will end.
  const int64_t end = std::min(plan.tokens, static_cast<int64_t>(wanted.size()));
  for (int i = 0; i < static_cast<int>(plan.keys.size()); ++i) {
    for (int g = 0; g < num_groups(); ++g) {
      const BlockTable table(config_.block_tokens, lifetime(g));
      const bool needed =
          i < sink_blocks(lifetime(g), config_.block_tokens) || i >= table.first_needed(end);
      if (!needed) continue;
      if (i < plan.blocks && i < static_cast<int>(plan.path.size()) &&
          index_.has_block(plan.path[static_cast<size_t>(i)], g)) {
        plan.kept.emplace_back(i, g);
        continue;
      }
      plan.loads.emplace_back(i, g);
      ++plan.loads_of[static_cast<size_t>(g)];
      plan.bytes += group_block_bytes(g);
    }
  }
  return plan;
}

// A finished sequence's last block after the plan's whole ones: the longest that the tier has for
// all groups. Its key says how long it is, so each length is asked for. `tokens`: all of the
// prompt, since a tail may end with the token that is computed anyway.
void KvCache::plan_tail(PromotionPlan& plan, NodeId root, std::span<const TokenId> tokens) {
  const std::span<const TokenId> rest = tokens.subspan(static_cast<size_t>(plan.tokens));
  std::vector<TierKey> asked(static_cast<size_t>(num_groups()));
  std::vector<uint8_t> found(asked.size());
  for (size_t n = std::min(rest.size(), static_cast<size_t>(config_.block_tokens) - 1); n > 0;
       --n) {
    const BlockKey key =
        block_key(plan.keys.empty() ? index_.key(root) : plan.keys.back(), rest.first(n));
    for (size_t g = 0; g < asked.size(); ++g) asked[g] = {key, static_cast<int32_t>(g)};
    if (config_.tier->lookup(asked, found) < num_groups()) continue;
    // The index takes no tail of which it has a longer block, even one that windows have lost.
    if (plan.path.size() == plan.keys.size()) {
      const auto [child, common] =
          index_.nearest_child(plan.path.empty() ? root : plan.path.back(), rest.first(n));
      if (common == static_cast<int>(n) && index_.tokens(*child).size() > n) continue;
    }
    plan.keys.push_back(key);
    plan.tokens += static_cast<int64_t>(n);
    return;
  }
}

std::optional<PromotionTicket> KvCache::promote(const SequenceKv& sequence,
                                                std::span<const TokenId> tokens,
                                                int64_t reuse_max) {
  if (config_.tier == nullptr || !config_.publish) return std::nullopt;
  index_.set_time(clock_.now_ns());
  const std::span<const TokenId> wanted = tokens.first(
      static_cast<size_t>(std::clamp<int64_t>(reuse_max, 0, static_cast<int64_t>(tokens.size()))));
  const int64_t matched = index_.match(index_.root(sequence.salt), wanted).tokens;
  const PromotionPlan plan = plan_promotion(sequence, tokens, wanted);
  const int64_t gained = std::min(plan.tokens, static_cast<int64_t>(wanted.size())) - matched;
  if (gained <= 0 || plan.loads.empty() || !cost_.restoring_is_cheaper(gained, plan.bytes))
    return std::nullopt;
  // What the new blocks hang on, and what is here of their windows, must not be evicted to make
  // room for them.
  for (const NodeId node : plan.path) index_.acquire(node);
  for (const auto& [i, g] : plan.kept) {
    if (index_.is_windowed(g)) index_.acquire_window(plan.path[static_cast<size_t>(i)], g);
  }
  bool has_room = true;
  for (int g = 0; g < num_groups(); ++g)
    has_room = has_room && plan.loads_of[static_cast<size_t>(g)] <= available_blocks(g);
  for (int g = 0; g < num_groups() && has_room; ++g)
    has_room = make_room(g, plan.loads_of[static_cast<size_t>(g)]);
  std::optional<PromotionTicket> ticket;
  if (has_room) {
    ticket = {PromotionId(next_promotion_++), matched, matched + gained};
    Promotion& promotion = promotions_[ticket->id.value()];
    promotion.prefix.salt = sequence.salt;
    promotion.prefix.retention = sequence.retention;
    promotion.tokens.assign(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(plan.tokens));
    start_loads(promotion, ticket->id.value(), plan);
    ++counters_.promotions;
  }
  for (const auto& [i, g] : plan.kept) {
    if (index_.is_windowed(g)) index_.release_window(plan.path[static_cast<size_t>(i)], g);
  }
  for (auto node = plan.path.rbegin(); node != plan.path.rend(); ++node) index_.release(*node);
  return ticket;
}

// REQUIRES: room for all of the plan's blocks.
void KvCache::start_loads(Promotion& promotion, int64_t id, const PromotionPlan& plan) {
  promotion.first = plan.loads.front().first;
  promotion.blocks.resize(plan.keys.size() - static_cast<size_t>(promotion.first));
  for (PromotedBlock& block : promotion.blocks)
    block.blocks.resize(static_cast<size_t>(num_groups()));
  for (const auto& [i, g] : plan.loads) {
    const auto at = static_cast<size_t>(i - promotion.first);
    const auto group = static_cast<size_t>(g);
    BlockRef block = std::move(pool(g).allocate()).value();
    const TransferId transfer(next_transfer_++);
    loads_.push_back({g, block.id(), {plan.keys[static_cast<size_t>(i)], g}, transfer});
    loading_[transfer.value()] = {id, at, g};
    promotion.blocks[at].blocks[group] = std::move(block);
    ++promotion.pending;
    ++in_flight_[group];
  }
}

void KvCache::finish_transfers() {
  if (config_.tier == nullptr || loading_.empty()) return;
  index_.set_time(clock_.now_ns());
  ended_.clear();
  config_.tier->poll(ended_);
  for (const TierCompletion& end : ended_) {
    const auto place = loading_.find(end.transfer.value());
    QUIPU_CHECK(place != loading_.end(), "the tier ended transfer {}, which nobody began",
                end.transfer.value());
    Promotion& promotion = promotions_.at(place->second.promotion);
    const bool is_lost = end.outcome != TierOutcome::kDone;
    if (is_lost) promotion.blocks[place->second.block].is_lost = true;
    ++(is_lost ? counters_.blocks_lost : counters_.blocks_restored);
    if (--promotion.pending == 0) {
      publish(promotion);
      promotions_.erase(place->second.promotion);
    }
    loading_.erase(place);
  }
}

// Puts what came into the index, up to the first block that did not.
void KvCache::publish(Promotion& promotion) {
  for (const PromotedBlock& block : promotion.blocks) {
    for (size_t group = 0; group < block.blocks.size(); ++group)
      in_flight_[group] -= block.blocks[group].valid() ? 1 : 0;
  }
  const auto size = static_cast<size_t>(config_.block_tokens);
  const NodeId root = index_.root(promotion.prefix.salt);
  const auto first = static_cast<size_t>(promotion.first);
  std::vector<NodeId> path = index_.closed_path(root, promotion.tokens);
  if (path.size() < first && !index_.is_windowed(0)) {  // evicted in the meantime
    ++counters_.promotions_orphaned;
    return;
  }
  std::vector<NodeId> held;
  size_t at = std::min(path.size(), first);
  NodeId parent = at == 0 ? root : path[at - 1];
  // Where no group keeps everything, what windows have left behind leads to the rest without
  // blocks.
  PromotedBlock bare;
  bare.blocks.resize(lifetimes_.size());
  for (; at < first + promotion.blocks.size(); ++at) {
    PromotedBlock& block = at < first ? bare : promotion.blocks[at - first];
    // A node must not be made without the block that every node has.
    const bool lacks_block =
        at >= path.size() && !index_.is_windowed(0) && !block.blocks.front().valid();
    if (block.is_lost || lacks_block) break;
    const auto rest = std::span<const TokenId>(promotion.tokens).subspan(at * size);
    if (rest.size() < size) {
      index_.insert_tail(parent, rest, block.blocks, promotion.prefix.retention);
      break;
    }
    const std::span<const TokenId> tokens = rest.first(size);
    parent = index_
                 .insert(parent, tokens, index_.key_after(index_.key(parent), tokens), block.blocks,
                         promotion.prefix.retention)
                 .node;
    held.push_back(parent);
  }
  for (auto node = held.rbegin(); node != held.rend(); ++node) index_.release(*node);
}

// ---- saying what happened ----

void KvCache::explain(const SequenceKv& sequence, std::span<const TokenId> tokens,
                      int64_t reuse_max, std::string_view salts, KvExplanation& explanation) {
  if (!config_.publish) return;
  const std::span<const TokenId> wanted = tokens.first(
      static_cast<size_t>(std::clamp<int64_t>(reuse_max, 0, static_cast<int64_t>(tokens.size()))));
  explain_gone(index_.match(index_.root(sequence.salt), wanted), wanted, explanation);
  if (explanation.reason != MissReason::kNeverSeen ||
      !is_under_other_salt(sequence.salt, sequence.num_tokens(), wanted, salts, index_.num_roots()))
    return;
  explanation.reason = MissReason::kOtherSalt;
  recount_miss(explanation, MissReason::kOtherSalt);
}

// How far what is gone would have led, and what is there where the prompt goes another way.
void KvCache::explain_gone(const PrefixIndex::Match& match, std::span<const TokenId> wanted,
                           KvExplanation& explanation) const {
  const auto block = static_cast<size_t>(config_.block_tokens);
  const auto seen = static_cast<size_t>(match.tokens_seen);
  BlockKey key = index_.key(match.last_seen);
  for (size_t at = seen; at + block <= wanted.size(); at += block) {
    key = block_key(key, wanted.subspan(at, block));
    const std::optional<Ghost> ghost = index_.ghost(key);
    if (!ghost.has_value()) break;
    explanation.gone = static_cast<int64_t>(at + block) - explanation.reused();
    if (!explanation.gone_age_ns.has_value())
      explanation.gone_age_ns = clock_.now_ns() - ghost->last_use_ns;
  }
  const auto [child, common] = index_.nearest_child(match.last_seen, wanted.subspan(seen));
  if (child.has_value() && common < static_cast<int>(index_.tokens(*child).size()) &&
      seen + static_cast<size_t>(common) < wanted.size()) {
    explanation.cached_token = index_.tokens(*child)[static_cast<size_t>(common)];
  }
}

KvCache::Preview KvCache::preview(const std::string& salt, std::span<const TokenId> tokens,
                                  int64_t reuse_max, std::string_view salts) {
  Preview preview;
  KvExplanation& found = preview.found;
  found.prompt_tokens = static_cast<int64_t>(tokens.size());
  found.reason = MissReason::kCacheOff;
  if (!config_.publish) return preview;
  const std::span<const TokenId> wanted = tokens.first(
      static_cast<size_t>(std::clamp<int64_t>(reuse_max, 0, static_cast<int64_t>(tokens.size()))));
  const PrefixIndex::Match match = index_.match(index_.root(salt), wanted);
  found.shared = static_cast<int64_t>(match.path.size()) * config_.block_tokens;
  if (match.partial.has_value()) {
    const NodeId node = *match.partial;
    const bool is_taken = index_.is_tail(node) && !index_.is_pinned(node) &&
                          static_cast<int>(index_.tokens(node).size()) == match.partial_tokens;
    (is_taken ? found.tail : found.copied) = match.partial_tokens;
  }
  found.reason = miss_reason(match, wanted);
  explain_gone(match, wanted, found);
  if (found.reason == MissReason::kNeverSeen &&
      is_under_other_salt(salt, found.reused(), wanted, salts, index_.num_roots()))
    found.reason = MissReason::kOtherSalt;
  found.counted_as = found.reason;
  preview.tier_tokens = found.reused();
  if (config_.tier != nullptr) {
    SequenceKv asking = make_sequence();
    asking.salt = salt;
    preview.tier_tokens = std::clamp<int64_t>(plan_promotion(asking, tokens, wanted).tokens,
                                              found.reused(), reuse_max);
  }
  index_.forget_root_if_empty(salt);
  return preview;
}

// Whether another salt has more than `found` of the wanted tokens, among `salts_max` others that
// begin with `salts`.
bool KvCache::is_under_other_salt(const std::string& own, int64_t found,
                                  std::span<const TokenId> wanted, std::string_view salts,
                                  int salts_max) const {
  for (const auto& [salt, root] : index_.roots()) {
    if (salt == own || !salt.starts_with(salts)) continue;
    if (salts_max-- == 0) return false;
    if (index_.match(root, wanted).tokens > found) return true;
  }
  return false;
}

void KvCache::recount_miss(KvExplanation& explanation, MissReason reason) {
  --counters_.misses[static_cast<size_t>(explanation.counted_as)];
  ++counters_.misses[static_cast<size_t>(reason)];
  explanation.counted_as = reason;
}

}  // namespace quipu
