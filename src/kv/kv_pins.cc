#include "kv/kv_pins.h"

#include <algorithm>

#include "base/check.h"

namespace quipu {

KvPins::KvPins(KvCache& cache, int64_t token_limit, const KvPinLimits& limits, const Clock& clock)
    : cache_(cache), limits_(limits), clock_(clock) {
  QUIPU_CHECK(limits.share >= 0 && limits.share <= 1 && limits.owners > 0,
              "a share of {} for {} owners", limits.share, limits.owners);
  for (int group = 0; group < cache.num_groups(); ++group) {
    const int64_t total = cache.total_blocks(group);
    const auto share = static_cast<int64_t>(limits.share * static_cast<double>(total));
    const int64_t beside = total - cache.blocks_held_max_for(group, token_limit);
    budgets_.push_back(
        static_cast<int>(std::max<int64_t>(0, std::min(share, beside)) / limits.owners));
  }
  // The longest run of tokens whose blocks fit into every group's budget.
  const auto fits = [&](int64_t tokens) {
    for (int group = 0; group < cache.num_groups(); ++group) {
      const KvLifetime& lifetime = cache.lifetime(group);
      if (blocks_held_max(lifetime, cache.block_tokens(), tokens, 1) > owner_budget(group))
        return false;
    }
    return true;
  };
  int64_t above = token_limit + 1;
  while (above - tokens_max_ > 1) {
    const int64_t middle = tokens_max_ + (above - tokens_max_) / 2;
    (fits(middle) ? tokens_max_ : above) = middle;
  }
}

KvPins::~KvPins() {
  while (!pins_.empty()) end(pins_.begin());
}

KvPins::Outcome KvPins::pin(KvPin pin) {
  QUIPU_CHECK(!pin.tokens.empty() && pin.salt.starts_with(pin.owner) && !pins_.contains(pin.name),
              "pin '{}' of {} tokens", pin.name, pin.tokens.size());
  expire();
  PrefixIndex& index = cache_.index();
  const PrefixIndex::Match match = index.match(index.root(pin.salt), pin.tokens);
  index.forget_root_if_empty(pin.salt);
  if (match.tokens < static_cast<int64_t>(pin.tokens.size())) return Outcome::kNotCached;
  const NodeId node = match.partial.value_or(match.path.empty() ? NodeId() : match.path.back());
  const int tokens = match.partial.has_value() ? match.partial_tokens : cache_.block_tokens();
  const auto found = owners_.find(pin.owner);
  if (found != owners_.end() && found->second.pins >= limits_.pins_per_owner_max) {
    ++counters_.refused;
    return Outcome::kTooMany;
  }
  for (int group = 0; group < cache_.num_groups(); ++group) {
    int needed = held_blocks_of(pin.owner, group);
    index.for_each_kept(node, tokens, group, [&](NodeId kept) {
      needed += found == owners_.end() ||
                !found->second.kept[static_cast<size_t>(group)].contains(kept.value());
    });
    if (needed <= owner_budget(group)) continue;
    ++counters_.refused;
    return Outcome::kOverBudget;
  }
  index.pin(node, tokens);
  Owner& owner = owners_[pin.owner];
  ++owner.pins;
  owner.kept.resize(static_cast<size_t>(cache_.num_groups()));
  for (int group = 0; group < cache_.num_groups(); ++group) {
    index.for_each_kept(node, tokens, group, [&](NodeId kept) {
      ++owner.kept[static_cast<size_t>(group)][kept.value()];
    });
  }
  pin.created_ns = clock_.now_ns();
  if (pin.expires_ns.has_value()) expiring_.emplace(*pin.expires_ns, pin.name);
  std::string name = pin.name;
  pins_.emplace(std::move(name), Pinned{std::move(pin), node, tokens});
  ++counters_.created;
  return Outcome::kPinned;
}

void KvPins::end(std::map<std::string, Pinned>::iterator at) {
  const Pinned& pinned = at->second;
  const auto found = owners_.find(pinned.pin.owner);
  for (int group = 0; group < cache_.num_groups(); ++group) {
    auto& kept = found->second.kept[static_cast<size_t>(group)];
    cache_.index().for_each_kept(pinned.node, pinned.tokens, group, [&](NodeId node) {
      const auto count = kept.find(node.value());
      if (--count->second == 0) kept.erase(count);
    });
  }
  cache_.index().unpin(pinned.node, pinned.tokens);
  if (--found->second.pins == 0) owners_.erase(found);
  if (pinned.pin.expires_ns.has_value()) expiring_.erase({*pinned.pin.expires_ns, pinned.pin.name});
  pins_.erase(at);
}

bool KvPins::unpin(std::string_view owner, const std::string& name) {
  expire();
  const auto at = pins_.find(name);
  if (at == pins_.end() || !at->second.pin.owner.starts_with(owner)) return false;
  end(at);
  ++counters_.unpinned;
  return true;
}

void KvPins::expire() {
  if (expiring_.empty()) return;
  const int64_t now_ns = clock_.now_ns();
  while (!expiring_.empty() && expiring_.begin()->first <= now_ns) {
    end(pins_.find(expiring_.begin()->second));
    ++counters_.expired;
  }
}

const KvPin* KvPins::find(std::string_view owner, const std::string& name) const {
  const auto at = pins_.find(name);
  if (at == pins_.end() || !at->second.pin.owner.starts_with(owner)) return nullptr;
  return &at->second.pin;
}

std::vector<const KvPin*> KvPins::list(std::string_view owner) const {
  std::vector<const KvPin*> pins;
  for (const auto& [name, pinned] : pins_) {
    if (pinned.pin.owner.starts_with(owner)) pins.push_back(&pinned.pin);
  }
  return pins;
}

int KvPins::held_blocks_of(std::string_view owner, int group) const {
  const auto found = owners_.find(owner);
  if (found == owners_.end()) return 0;
  return static_cast<int>(found->second.kept[static_cast<size_t>(group)].size());
}

int KvPins::held_blocks(int group) const {
  int blocks = 0;
  for (const auto& [owner, state] : owners_)
    blocks += static_cast<int>(state.kept[static_cast<size_t>(group)].size());
  return blocks;
}

int64_t KvPins::tokens_max() const { return tokens_max_; }

void KvPins::check_invariants() const {
  for (const auto& [name, pinned] : pins_) {
    const auto root = cache_.index().roots().find(pinned.pin.salt);
    QUIPU_CHECK(root != cache_.index().roots().end(), "pin '{}' has lost its salt", name);
    const auto wanted = static_cast<int64_t>(pinned.pin.tokens.size());
    const int64_t cached = cache_.index().match(root->second, pinned.pin.tokens).tokens;
    QUIPU_CHECK(cached == wanted, "pin '{}': {} of {} tokens are cached", name, cached, wanted);
    QUIPU_CHECK(cache_.index().is_pinned(pinned.node), "pin '{}' keeps nothing", name);
    QUIPU_CHECK(
        !pinned.pin.expires_ns.has_value() || expiring_.contains({*pinned.pin.expires_ns, name}),
        "pin '{}' would never end", name);
  }
  for (const auto& [owner, state] : owners_) {
    for (int group = 0; group < cache_.num_groups(); ++group) {
      QUIPU_CHECK(held_blocks_of(owner, group) <= owner_budget(group),
                  "an owner has {} blocks of group {} pinned, of {}", held_blocks_of(owner, group),
                  group, owner_budget(group));
    }
  }
}

}  // namespace quipu
