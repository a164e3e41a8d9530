#include "kv/prefix_index.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>

namespace quipu {

namespace {

constexpr int32_t kExpiredPriority = std::numeric_limits<int32_t>::min();

}  // namespace

PrefixIndex::PrefixIndex(int block_tokens, std::vector<KvLifetime> groups, std::string fingerprint,
                         std::string_view policy, size_t ghosts)
    : block_tokens_(block_tokens),
      groups_(std::move(groups)),
      keeps_everything_(!groups_.empty() && !groups_.front().is_windowed()),
      fingerprint_(std::move(fingerprint)),
      order_(make_eviction_policy(policy)),
      ghosts_(ghosts) {
  QUIPU_CHECK(block_tokens > 0 && !groups_.empty(), "an index needs blocks and groups");
  for (size_t group = 0; group < groups_.size(); ++group) {
    if (groups_[group].is_windowed()) windows_.emplace_back(make_eviction_policy(policy));
    QUIPU_CHECK(group == 0 || groups_[group].is_windowed(), "group {} keeps everything", group);
  }
}

NodeId PrefixIndex::root(std::string_view salt) {
  const auto found = roots_.find(std::string(salt));
  if (found != roots_.end()) return found->second;
  const NodeId node = new_node(NodeId(kNone), {}, root_key(fingerprint_, salt), {}, {}, 0);
  const auto made = roots_.emplace(salt, node).first;
  salts_.emplace(node.value(), &made->first);
  return node;
}

void PrefixIndex::forget_root_if_empty(std::string_view salt) {
  const auto found = roots_.find(std::string(salt));
  if (found == roots_.end() || at(found->second).children > 0) return;
  const NodeId node = found->second;
  salts_.erase(node.value());
  roots_.erase(found);
  at(node) = Node();
  unused_.push_back(node.value());
}

// ---- look-up ----

std::span<const TokenId> PrefixIndex::tokens(NodeId node) const {
  return {token_slots(node.value()), static_cast<size_t>(nodes_[index(node)].num_tokens)};
}

bool PrefixIndex::has_all_blocks(NodeId node) const {
  for (int group = 0; group < num_groups(); ++group) {
    if (!has_block(node, group)) return false;
  }
  return true;
}

PrefixIndex::Match PrefixIndex::match(NodeId root, std::span<const TokenId> wanted) const {
  Match match;
  NodeId node = root;
  const size_t block = static_cast<size_t>(block_tokens_);
  std::span<const TokenId> rest = wanted;
  WindowScan windows(groups_, block_tokens_);
  int64_t position = 0;   // tokens before `rest`
  size_t path_whole = 0;  // nodes after which every group can go on
  while (rest.size() >= block) {
    const std::optional<NodeId> child = find_closed_child(node, rest.first(block));
    if (!child.has_value()) break;
    node = *child;
    match.path.push_back(node);
    rest = rest.subspan(block);
    position += block_tokens_;
    for (int group = 0; group < num_groups(); ++group)
      windows.add(static_cast<size_t>(group), has_block(node, group));
    if (windows.is_whole(position)) path_whole = match.path.size();
  }
  match.last_seen = node;
  match.tokens_seen = position;
  const auto [child, common] = best_partial_child(node, rest, Children::kWithAllBlocks);
  if (child != kNone) {
    for (size_t group = 0; group < groups_.size(); ++group) windows.add(group, true);
    if (windows.is_whole(position + common)) {
      match.partial = NodeId(child);
      match.partial_tokens = common;
    }
  }
  if (!match.partial.has_value()) match.path.resize(path_whole);
  match.tokens = static_cast<int64_t>(match.path.size() * block) + match.partial_tokens;
  return match;
}

std::vector<NodeId> PrefixIndex::closed_path(NodeId root, std::span<const TokenId> wanted) const {
  std::vector<NodeId> path;
  const size_t block = static_cast<size_t>(block_tokens_);
  NodeId node = root;
  for (size_t at = 0; at + block <= wanted.size(); at += block) {
    const std::optional<NodeId> child = find_closed_child(node, wanted.subspan(at, block));
    if (!child.has_value()) break;
    node = *child;
    path.push_back(node);
  }
  return path;
}

bool PrefixIndex::may_outlive(NodeId node) const {
  const Node& n = nodes_[index(node)];
  return !n.expires && n.priority != kExpiredPriority;
}

// ---- holding, and the order of eviction ----

bool PrefixIndex::evictable(const Node& node) const {
  return node.live && node.num_tokens > 0 && node.children == 0 && node.holders == 0 &&
         node.pins == 0;
}

EvictionOrder::Place PrefixIndex::place(NodeId node) const {
  const Node& n = nodes_[index(node)];
  return {n.priority, n.worth, node.value(), n.queue};
}

void PrefixIndex::place_by_use(NodeId node) {
  Node& n = at(node);
  n.last_use_ns = now_ns_;
  const NodeUse use = {.sequence_number = ++uses_,
                       .time_ns = now_ns_,
                       .position = position(n),
                       .hits = n.hits};
  n.queue = static_cast<uint8_t>(order_.policy().queue_of(use));
  n.worth = order_.policy().worth(use);
  order_.policy().waits(n.queue);
}

template <typename Change>
void PrefixIndex::change_node(NodeId node, Change&& change) {
  Node& n = at(node);
  const auto is_cached = [&] { return n.num_tokens > 0 && n.holders == 0; };
  const bool was_cached = is_cached(), was_kept = was_cached && n.pins > 0;
  if (evictable(n)) order_.erase(place(node));
  change(n);
  if (evictable(n)) order_.insert(place(node));
  num_cached_ += static_cast<int>(is_cached()) - static_cast<int>(was_cached);
  num_kept_ += static_cast<int>(is_cached() && n.pins > 0) - static_cast<int>(was_kept);
}

void PrefixIndex::touch(NodeId node) {
  change_node(node, [&](Node& n) {
    order_.policy().returned(n.queue, now_ns_ - n.last_use_ns);
    ++n.hits;
    place_by_use(node);
  });
}

void PrefixIndex::acquire(NodeId node) {
  QUIPU_CHECK(!is_tail(node), "a tail cannot be held; take it");
  change_node(node, [](Node& n) { ++n.holders; });
}

void PrefixIndex::release(NodeId node) {
  change_node(node, [](Node& n) {
    QUIPU_CHECK(n.holders > 0, "release of a node nobody holds");
    --n.holders;
  });
  remove_bare_leaves(node);
}

void PrefixIndex::unpin(NodeId node, int tokens) {
  change_pins(node, tokens, -1);
  // A tail that a sibling goes on from stayed for its pins alone.
  if (is_tail(node) && !is_pinned(node) && is_extended(node)) return remove_node(node);
  remove_bare_leaves(node);
}

void PrefixIndex::change_pins(NodeId node, int tokens, int difference) {
  QUIPU_CHECK(tokens > 0 && tokens <= at(node).num_tokens, "a pin at token {} of {}", tokens,
              at(node).num_tokens);
  for (NodeId n = node; at(n).num_tokens > 0; n = NodeId(at(n).parent)) {
    change_node(n, [&](Node& changed) {
      changed.pins += difference;
      QUIPU_CHECK(changed.pins >= 0, "unpin of a node that is not pinned");
    });
  }
  pin_windows(node, tokens, difference);
}

// ---- growing and shrinking ----

NodeId PrefixIndex::new_node(NodeId parent, std::span<const TokenId> tokens, const BlockKey& key,
                             std::span<BlockRef> blocks, const Retention& retention,
                             int holders) {
  if (unused_.empty()) {
    unused_.push_back(static_cast<int32_t>(nodes_.size()));
    nodes_.emplace_back();
    tokens_.resize(nodes_.size() * static_cast<size_t>(block_tokens_));
    blocks_.resize(nodes_.size() * groups_.size());
    window_uses_.resize(nodes_.size() * windows_.size());
  }
  const NodeId id(unused_.back());
  unused_.pop_back();
  std::copy(tokens.begin(), tokens.end(), token_slots(id.value()));
  Node& n = at(id);
  n.live = true;
  n.num_tokens = static_cast<int32_t>(tokens.size());
  n.priority = retention.priority;
  n.holders = holders;
  n.key = key;
  if (parent.value() != kNone) {
    // The parent stops being a leaf: out of the order before its first child arrives.
    change_node(parent, [](Node& p) { ++p.children; });
    const Node& p = nodes_[index(parent)];
    n.parent = parent.value();
    n.block_index = p.num_tokens == 0 ? 0 : p.block_index + 1;
    n.first_token = tokens.front();
    link_child(id);
    // Wanted again after it was evicted: what that says about its kind counts.
    const uint64_t ghost_key = ghost_key_of(id);
    if (const std::optional<Ghost> ghost = ghosts_.find(ghost_key); ghost.has_value()) {
      order_.policy().returned(ghost->queue, now_ns_ - ghost->last_use_ns);
      n.hits = ghost->hits + 1;
      ghosts_.remove(ghost_key);
    }
    place_by_use(id);
    ++num_nodes_;
    num_cached_ += holders == 0;
    for (size_t group = 0; group < blocks.size(); ++group)
      give_block(id, static_cast<int>(group), std::move(blocks[group]));
    if (evictable(n)) order_.insert(place(id));
  }
  if (retention.expires_ns.has_value()) {
    n.expires = true;
    expiring_.insert({*retention.expires_ns, id.value()});
    expiry_[id.value()] = *retention.expires_ns;
  }
  return id;
}

// ---- what is gone ----

uint64_t PrefixIndex::ghost_key(const BlockKey& key) {
  uint64_t first;
  std::memcpy(&first, key.bytes.data(), sizeof first);
  return first;
}

// A tail has no key of its own. Its parent's and its first token tell why a prompt that goes on with
// that token is not served from it.
uint64_t PrefixIndex::ghost_key_of(NodeId node) const {
  const Node& n = nodes_[index(node)];
  if (n.num_tokens == block_tokens_) return ghost_key(n.key);
  return tail_ghost_key(nodes_[static_cast<size_t>(n.parent)].key, tokens(node));
}

uint64_t PrefixIndex::tail_ghost_key(const BlockKey& parent, std::span<const TokenId> tokens) {
  return XXH3_64bits_withSeed(tokens.data(), sizeof tokens.front(), ghost_key(parent));
}

std::optional<Ghost> PrefixIndex::tail_ghost(NodeId parent, std::span<const TokenId> tokens) const {
  if (tokens.empty()) return std::nullopt;
  return ghosts_.find(tail_ghost_key(key(parent), tokens));
}

void PrefixIndex::remember(NodeId node, GoneReason reason) {
  const Node& n = at(node);
  ghosts_.add(ghost_key_of(node),
              {.last_use_ns = n.last_use_ns,
               .hits = n.hits,
               .queue = n.queue,
               .reason = n.priority == kExpiredPriority ? GoneReason::kExpired : reason});
}

void PrefixIndex::give_block(NodeId node, int group, BlockRef block) {
  if (is_windowed(group)) {
    give_window_block(node, group, std::move(block));
  } else {
    this->block(node, group) = std::move(block);
  }
}

// REQUIRES: no children, no holders.
void PrefixIndex::remove_node(NodeId node) {
  Node& n = at(node);
  QUIPU_CHECK(n.live && n.children == 0 && n.holders == 0, "removing node {} in use",
              node.value());
  for (int group = 0; group < num_groups(); ++group) {
    if (is_windowed(group)) {
      drop_window_block(node, group);
      QUIPU_CHECK(window_use(node, group).users == 0, "removing node {} in use", node.value());
      window_use(node, group) = WindowUse();
    } else {
      block(node, group) = BlockRef();
    }
  }
  if (n.expires) {
    expiring_.erase({expiry_.at(node.value()), node.value()});
    expiry_.erase(node.value());
  }
  if (evictable(n)) order_.erase(place(node));
  unlink_child(node);
  change_node(NodeId(n.parent), [](Node& p) { --p.children; });
  --num_cached_;
  --num_nodes_;
  n = Node();
  unused_.push_back(node.value());
}

// Where no group keeps everything, a leaf without blocks leads nowhere: it goes, and then perhaps
// its parent.
void PrefixIndex::remove_bare_leaves(NodeId node) {
  if (keeps_everything_) return;
  while (evictable(at(node))) {
    for (int group = 0; group < num_groups(); ++group) {
      if (has_block(node, group)) return;
    }
    const NodeId parent(at(node).parent);
    remove_node(node);
    node = parent;
  }
}

// A tail that `tokens` extend has nothing left to offer.
void PrefixIndex::remove_extended_tail(NodeId parent, std::span<const TokenId> tokens) {
  const auto [child, common] = best_partial_child(parent, tokens, Children::kAll);
  if (child != kNone && common == nodes_[static_cast<size_t>(child)].num_tokens &&
      nodes_[static_cast<size_t>(child)].pins == 0) {
    remove_node(NodeId(child));
  }
}

BlockKey PrefixIndex::key_after(const BlockKey& parent, std::span<const TokenId> tokens) const {
  const BlockKey key = block_key(parent, tokens);
  ghosts_.prefetch(ghost_key(key));
  return key;
}

PrefixIndex::Inserted PrefixIndex::insert(NodeId parent, std::span<const TokenId> tokens,
                                          const BlockKey& key, std::span<BlockRef> blocks,
                                          const Retention& retention) {
  QUIPU_CHECK(static_cast<int>(tokens.size()) == block_tokens_ && blocks.size() == groups_.size(),
              "insert of {} tokens in {} blocks", tokens.size(), blocks.size());
  if (const std::optional<NodeId> equal = find_closed_child(parent, tokens)) {
    touch(*equal);
    acquire(*equal);
    for (int group = 0; group < num_groups(); ++group) {
      if (!is_windowed(group)) continue;
      if (!has_block(*equal, group))
        give_block(*equal, group, std::move(blocks[static_cast<size_t>(group)]));
      touch_window(*equal, group);
    }
    return {*equal, true};
  }
  remove_extended_tail(parent, tokens);
  return {new_node(parent, tokens, key, blocks, retention, 1), false};
}

void PrefixIndex::insert_tail(NodeId parent, std::span<const TokenId> tokens,
                              std::span<BlockRef> blocks, const Retention& retention) {
  QUIPU_CHECK(!tokens.empty() && static_cast<int>(tokens.size()) < block_tokens_ &&
                  blocks.size() == groups_.size(),
              "a tail of {} tokens in {} blocks", tokens.size(), blocks.size());
  const auto [child, common] = best_partial_child(parent, tokens, Children::kAll);
  if (child != kNone && common == static_cast<int>(tokens.size())) {
    // Already there, perhaps longer; a tail of the same length takes the blocks that it lost.
    const NodeId node(child);
    touch(node);
    for (int group = 0; group < num_groups(); ++group) {
      if (nodes_[index(node)].num_tokens == common && !has_block(node, group))
        give_block(node, group, std::move(blocks[static_cast<size_t>(group)]));
      if (is_windowed(group)) touch_window(node, group);
    }
    return;
  }
  remove_extended_tail(parent, tokens);
  new_node(parent, tokens, block_key(key(parent), tokens), blocks, retention, 0);
}

void PrefixIndex::take_tail(NodeId tail, std::span<BlockRef> blocks) {
  QUIPU_CHECK(is_tail(tail) && at(tail).pins == 0 && blocks.size() == groups_.size(),
              "node {} is not a free tail", tail.value());
  for (int group = 0; group < num_groups(); ++group)
    blocks[static_cast<size_t>(group)] = share_block(tail, group);
  remove_node(tail);
}

void PrefixIndex::expire() {
  while (!expiring_.empty() && expiring_.begin()->first <= now_ns_) {
    const NodeId node(expiring_.begin()->second);
    expiring_.erase(expiring_.begin());
    expiry_.erase(node.value());
    take_out_of_window_orders(node);
    change_node(node, [](Node& n) {
      n.expires = false;
      n.priority = kExpiredPriority;
    });
    put_into_window_orders(node);
  }
}

std::optional<NodeId> PrefixIndex::victim(std::optional<NodeId> keep) {
  expire();
  const std::optional<EvictionOrder::Place> least = order_.least(
      now_ns_, keep.has_value() ? std::optional(keep->value()) : std::nullopt);
  return least.has_value() ? std::optional(NodeId(least->node)) : std::nullopt;
}

void PrefixIndex::evict(NodeId node) {
  order_.policy().evicted(at(node).worth);
  remember(node, GoneReason::kEvicted);
  const NodeId parent(at(node).parent);
  remove_node(node);
  const Node& p = at(parent);
  if (p.num_tokens == 0) {
    forget_root_if_empty(*salts_.at(parent.value()));
    return;
  }
  // Its parent is mostly the next to go.
  if (p.children > 0) return;
  prefetch_node(p.parent);
  ghosts_.prefetch(ghost_key(p.key));
}

void PrefixIndex::clear() {
  while (const std::optional<NodeId> node = victim()) {
    remember(*node, GoneReason::kCleared);
    remove_node(*node);
  }
  std::vector<std::string> salts;
  for (const auto& [salt, root] : roots_) salts.push_back(salt);
  for (const std::string& salt : salts) forget_root_if_empty(salt);
}

void PrefixIndex::for_each_node(const std::function<void(const NodeFacts&)>& visit) const {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& n = nodes_[i];
    if (!n.live) continue;
    NodeFacts facts{.node = NodeId(static_cast<int32_t>(i)),
                    .parent = std::nullopt,
                    .tokens = n.num_tokens,
                    .children = n.children,
                    .holders = n.holders,
                    .pins = n.pins,
                    .hits = n.hits,
                    .position = int64_t{n.block_index} * block_tokens_,
                    .last_use_ns = n.last_use_ns};
    if (n.parent != kNone) facts.parent = NodeId(n.parent);
    visit(facts);
  }
}

size_t PrefixIndex::index_bytes() const {
  constexpr size_t kSetNodeBytes = sizeof(std::pair<int64_t, int32_t>) + 4 * sizeof(void*);
  size_t bytes =
      nodes_.capacity() * sizeof(Node) + tokens_.capacity() * sizeof(TokenId) +
      blocks_.capacity() * sizeof(BlockRef) + window_uses_.capacity() * sizeof(WindowUse) +
      closed_children_.bytes() + first_children_.bytes() + order_.bytes() +
      unused_.capacity() * sizeof(int32_t) + 2 * expiring_.size() * kSetNodeBytes + ghosts_.bytes();
  for (const WindowGroup& window : windows_) bytes += window.order.bytes();
  return bytes;
}

void PrefixIndex::check_node(NodeId node) const {
  const Node& n = nodes_[index(node)];
  const Node& parent = nodes_[static_cast<size_t>(n.parent)];
  QUIPU_CHECK(parent.live && (parent.num_tokens == 0 || parent.num_tokens == block_tokens_),
              "node {} hangs under a tail", node.value());
  QUIPU_CHECK(parent.num_tokens == 0 || parent.holders >= n.holders,
              "node {} has more holders than its parent", node.value());
  QUIPU_CHECK(n.pins >= 0 && (parent.num_tokens == 0 || parent.pins >= n.pins),
              "node {} has more pins than its parent", node.value());
  if (n.num_tokens < block_tokens_) {
    QUIPU_CHECK(n.children == 0 && n.holders == 0, "tail {} is in use", node.value());
  }
  for (int32_t s = n.next_sibling; s != kNone; s = nodes_[static_cast<size_t>(s)].next_sibling) {
    const int common = common_tokens(tokens(node), tokens(NodeId(s)));
    const Node& sibling = nodes_[static_cast<size_t>(s)];
    const bool has_pinned_tail = (n.num_tokens < block_tokens_ && n.pins > 0) ||
                                 (sibling.num_tokens < block_tokens_ && sibling.pins > 0);
    QUIPU_CHECK(has_pinned_tail || common < std::min(n.num_tokens, sibling.num_tokens),
                "siblings {} and {} overlap", node.value(), s);
  }
  if (keeps_everything_) {
    QUIPU_CHECK(has_block(node, 0), "node {} has no block", node.value());
    const int references = block(node, 0).references();
    QUIPU_CHECK(references == 1 + n.holders, "node {}: {} references, {} holders", node.value(),
                references, n.holders);
  }
  QUIPU_CHECK(n.num_tokens < block_tokens_ || n.is_hashed || parent.head_child == node.value(),
              "node {} cannot be found by its tokens", node.value());
  QUIPU_CHECK(n.head_child == kNone || (nodes_[static_cast<size_t>(n.head_child)].live &&
                                        nodes_[static_cast<size_t>(n.head_child)].parent ==
                                            node.value()),
              "the head child of node {} is not its child", node.value());
  QUIPU_CHECK(!evictable(n) || order_.contains(place(node)),
              "node {} is missing in the eviction order", node.value());
}

void PrefixIndex::check_invariants() const {
  size_t evictable_nodes = 0;
  int live_nodes = 0, cached = 0, kept = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& n = nodes_[i];
    if (!n.live || n.num_tokens == 0) continue;
    ++live_nodes;
    cached += n.holders == 0;
    kept += n.holders == 0 && n.pins > 0;
    evictable_nodes += evictable(n);
    check_node(NodeId(static_cast<int32_t>(i)));
  }
  QUIPU_CHECK(evictable_nodes == order_.size(), "{} nodes in the order, {} evictable",
              order_.size(), evictable_nodes);
  QUIPU_CHECK(live_nodes == num_nodes_ && cached == num_cached_ && kept == num_kept_,
              "counts {} {}, {} {} and {} {}", live_nodes, num_nodes_, cached, num_cached_, kept,
              num_kept_);
  check_window_invariants();
}

}  // namespace quipu
