#include "kv/prefix_index.h"

#include <xxhash.h>

#include <algorithm>
#include <limits>

namespace quipu {

namespace {

constexpr int32_t kExpiredPriority = std::numeric_limits<int32_t>::min();

int common_prefix(std::span<const TokenId> a, std::span<const TokenId> b) {
  const auto limit = static_cast<ptrdiff_t>(std::min(a.size(), b.size()));
  return static_cast<int>(std::mismatch(a.begin(), a.begin() + limit, b.begin()).first - a.begin());
}

}  // namespace

PrefixIndex::PrefixIndex(int block_tokens, std::string fingerprint,
                         std::unique_ptr<EvictionPolicy> policy)
    : block_tokens_(block_tokens),
      fingerprint_(std::move(fingerprint)),
      policy_(std::move(policy)) {
  QUIPU_CHECK(block_tokens > 0 && policy_ != nullptr, "an index needs blocks and a policy");
}

NodeId PrefixIndex::root(std::string_view salt) {
  const auto found = roots_.find(std::string(salt));
  if (found != roots_.end()) return found->second;
  const NodeId node = new_node(NodeId(kNone), {}, BlockRef(), {});
  at(node).key = root_key(fingerprint_, salt);
  roots_.emplace(salt, node);
  return node;
}

// ---- look-up ----

std::span<const TokenId> PrefixIndex::tokens(NodeId node) const {
  return {token_slots(node.value()), static_cast<size_t>(nodes_[index(node)].num_tokens)};
}

PrefixIndex::ChildKey PrefixIndex::child_key(int32_t parent,
                                             std::span<const TokenId> tokens) const {
  return {parent, XXH3_64bits(tokens.data(), tokens.size_bytes())};
}

std::optional<NodeId> PrefixIndex::find_closed_child(NodeId parent,
                                                     std::span<const TokenId> tokens) const {
  const auto found = closed_children_.find(child_key(parent.value(), tokens));
  if (found == closed_children_.end()) return std::nullopt;
  const NodeId child(found->second);
  // A 64-bit hash finds, the tokens decide.
  if (!std::ranges::equal(this->tokens(child), tokens)) return std::nullopt;
  return child;
}

// The child with the most first tokens in common, and how many. SHAPE: {kNone, 0} when none has
// any.
std::pair<int32_t, int> PrefixIndex::best_partial_child(NodeId parent,
                                                        std::span<const TokenId> wanted) const {
  std::pair<int32_t, int> best = {kNone, 0};
  if (wanted.empty()) return best;
  for (int32_t child = nodes_[index(parent)].first_child; child != kNone;
       child = nodes_[static_cast<size_t>(child)].next_sibling) {
    if (token_slots(child)[0] != wanted.front()) continue;
    const int common = common_prefix(tokens(NodeId(child)), wanted);
    if (common > best.second) best = {child, common};
  }
  return best;
}

PrefixIndex::Match PrefixIndex::match(NodeId root, std::span<const TokenId> wanted) const {
  Match match;
  NodeId node = root;
  const size_t block = static_cast<size_t>(block_tokens_);
  std::span<const TokenId> rest = wanted;
  while (rest.size() >= block) {
    const std::optional<NodeId> child = find_closed_child(node, rest.first(block));
    if (!child.has_value()) break;
    node = *child;
    match.path.push_back(node);
    rest = rest.subspan(block);
  }
  const auto [child, common] = best_partial_child(node, rest);
  if (child != kNone) {
    match.partial = NodeId(child);
    match.partial_tokens = common;
  }
  match.tokens = static_cast<int64_t>(match.path.size() * block) + match.partial_tokens;
  return match;
}

BlockRef PrefixIndex::share_block(NodeId node) const { return nodes_[index(node)].block.share(); }

// ---- holding, and the order of eviction ----

bool PrefixIndex::evictable(const Node& node) const {
  return node.live && node.num_tokens > 0 && node.first_child == kNone && node.holders == 0 &&
         node.pins == 0;
}

PrefixIndex::OrderKey PrefixIndex::order_key(int32_t node) const {
  const Node& n = nodes_[static_cast<size_t>(node)];
  return {n.priority, n.worth, node};
}

template <typename Change>
void PrefixIndex::change_node(NodeId node, Change&& change) {
  Node& n = at(node);
  const bool was_cached = n.num_tokens > 0 && n.holders == 0;
  if (evictable(n)) order_.erase(order_key(node.value()));
  change(n);
  if (evictable(n)) order_.insert(order_key(node.value()));
  num_cached_ +=
      static_cast<int>(n.num_tokens > 0 && n.holders == 0) - static_cast<int>(was_cached);
}

void PrefixIndex::touch(NodeId node) {
  change_node(node, [&](Node& n) {
    ++n.hits;
    n.worth = policy_->worth({.sequence_number = ++uses_, .position = n.position, .hits = n.hits});
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
}

void PrefixIndex::pin(NodeId node) {
  change_node(node, [](Node& n) { ++n.pins; });
}

void PrefixIndex::unpin(NodeId node) {
  change_node(node, [](Node& n) {
    QUIPU_CHECK(n.pins > 0, "unpin of a node that is not pinned");
    --n.pins;
  });
}

// ---- growing and shrinking ----

NodeId PrefixIndex::new_node(NodeId parent, std::span<const TokenId> tokens, BlockRef block,
                             const Retention& retention) {
  if (unused_.empty()) {
    unused_.push_back(static_cast<int32_t>(nodes_.size()));
    nodes_.emplace_back();
    tokens_.resize(nodes_.size() * static_cast<size_t>(block_tokens_));
  }
  const NodeId id(unused_.back());
  unused_.pop_back();
  if (parent.value() != kNone) {
    // The parent stops being a leaf: out of the order while its first child arrives.
    change_node(parent, [&](Node& p) {
      Node& n = at(id);
      n.parent = parent.value();
      n.next_sibling = p.first_child;
      if (p.first_child != kNone)
        nodes_[static_cast<size_t>(p.first_child)].previous_sibling = id.value();
      p.first_child = id.value();
    });
  }
  Node& n = at(id);
  std::copy(tokens.begin(), tokens.end(), token_slots(id.value()));
  change_node(id, [&](Node& node) {
    node.live = true;
    node.num_tokens = static_cast<int32_t>(tokens.size());
    node.block = std::move(block);
    node.priority = retention.priority;
    node.expires_ns = retention.expires_ns;
    if (parent.value() != kNone) {
      const Node& p = nodes_[index(parent)];
      node.position = p.position + p.num_tokens;
      if (node.num_tokens == block_tokens_) node.key = block_key(p.key, tokens);
    }
    node.worth = policy_->worth({.sequence_number = ++uses_, .position = node.position, .hits = 0});
  });
  if (n.expires_ns.has_value()) expiring_.insert({*n.expires_ns, id.value()});
  if (n.num_tokens == block_tokens_)
    closed_children_.emplace(child_key(parent.value(), tokens), id.value());
  num_nodes_ += n.num_tokens > 0;
  return id;
}

// REQUIRES: no children, no holders.
void PrefixIndex::remove_node(NodeId node) {
  Node& n = at(node);
  QUIPU_CHECK(n.live && n.first_child == kNone && n.holders == 0, "removing node {} in use",
              node.value());
  if (n.num_tokens == block_tokens_) closed_children_.erase(child_key(n.parent, tokens(node)));
  if (n.expires_ns.has_value()) expiring_.erase({*n.expires_ns, node.value()});
  if (evictable(n)) order_.erase(order_key(node.value()));
  if (n.previous_sibling != kNone)
    nodes_[static_cast<size_t>(n.previous_sibling)].next_sibling = n.next_sibling;
  if (n.next_sibling != kNone)
    nodes_[static_cast<size_t>(n.next_sibling)].previous_sibling = n.previous_sibling;
  change_node(NodeId(n.parent), [&](Node& p) {
    if (p.first_child == node.value()) p.first_child = n.next_sibling;
  });
  --num_cached_;
  --num_nodes_;
  n = Node();
  unused_.push_back(node.value());
}

PrefixIndex::Inserted PrefixIndex::insert(NodeId parent, std::span<const TokenId> tokens,
                                          BlockRef block, const Retention& retention) {
  QUIPU_CHECK(static_cast<int>(tokens.size()) == block_tokens_, "insert of {} tokens",
              tokens.size());
  if (const std::optional<NodeId> equal = find_closed_child(parent, tokens)) {
    touch(*equal);
    acquire(*equal);
    return {*equal, true};
  }
  // A tail that these tokens extend has nothing left to offer.
  const auto [child, common] = best_partial_child(parent, tokens);
  if (child != kNone && common == nodes_[static_cast<size_t>(child)].num_tokens &&
      nodes_[static_cast<size_t>(child)].pins == 0) {
    remove_node(NodeId(child));
  }
  const NodeId node = new_node(parent, tokens, std::move(block), retention);
  acquire(node);
  return {node, false};
}

void PrefixIndex::insert_tail(NodeId parent, std::span<const TokenId> tokens, BlockRef block,
                              const Retention& retention) {
  QUIPU_CHECK(!tokens.empty() && static_cast<int>(tokens.size()) < block_tokens_,
              "a tail of {} tokens", tokens.size());
  const auto [child, common] = best_partial_child(parent, tokens);
  if (child != kNone &&
      common == static_cast<int>(tokens.size())) {  // already there, perhaps longer
    touch(NodeId(child));
    return;
  }
  if (child != kNone && common == nodes_[static_cast<size_t>(child)].num_tokens &&
      nodes_[static_cast<size_t>(child)].pins == 0) {
    remove_node(NodeId(child));
  }
  new_node(parent, tokens, std::move(block), retention);
}

BlockRef PrefixIndex::take_tail(NodeId tail) {
  QUIPU_CHECK(is_tail(tail) && at(tail).pins == 0, "node {} is not a free tail", tail.value());
  BlockRef block = std::move(at(tail).block);
  remove_node(tail);
  return block;
}

void PrefixIndex::expire(int64_t now_ns) {
  while (!expiring_.empty() && expiring_.begin()->first <= now_ns) {
    const NodeId node(expiring_.begin()->second);
    expiring_.erase(expiring_.begin());
    change_node(node, [](Node& n) {
      n.expires_ns.reset();
      n.priority = kExpiredPriority;
    });
  }
}

bool PrefixIndex::evict_one(int64_t now_ns, std::optional<NodeId> keep) {
  expire(now_ns);
  for (const OrderKey& key : order_) {
    const NodeId node(std::get<2>(key));
    if (node == keep) continue;
    policy_->evicted(std::get<1>(key));
    remove_node(node);
    return true;
  }
  return false;
}

void PrefixIndex::clear() {
  while (!order_.empty()) remove_node(NodeId(std::get<2>(*order_.begin())));
}

size_t PrefixIndex::index_bytes() const {
  constexpr size_t kMapNodeBytes = sizeof(ChildKey) + sizeof(int32_t) + 3 * sizeof(void*);
  constexpr size_t kSetNodeBytes = sizeof(OrderKey) + 4 * sizeof(void*);
  return nodes_.capacity() * sizeof(Node) + tokens_.capacity() * sizeof(TokenId) +
         closed_children_.size() * kMapNodeBytes + closed_children_.bucket_count() * sizeof(void*) +
         (order_.size() + expiring_.size()) * kSetNodeBytes;
}

void PrefixIndex::check_invariants() const {
  size_t evictable_nodes = 0;
  int live_nodes = 0, cached = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& n = nodes_[i];
    if (!n.live || n.num_tokens == 0) continue;
    const auto id = static_cast<int32_t>(i);
    ++live_nodes;
    cached += n.holders == 0;
    QUIPU_CHECK(n.block.valid(), "node {} has no block", i);
    const Node& parent = nodes_[static_cast<size_t>(n.parent)];
    QUIPU_CHECK(parent.live && (parent.num_tokens == 0 || parent.num_tokens == block_tokens_),
                "node {} hangs under a tail", i);
    QUIPU_CHECK(parent.num_tokens == 0 || parent.holders >= n.holders,
                "node {} has more holders than its parent", i);
    if (n.num_tokens < block_tokens_)
      QUIPU_CHECK(n.first_child == kNone && n.holders == 0, "tail {} is in use", i);
    for (int32_t s = n.next_sibling; s != kNone; s = nodes_[static_cast<size_t>(s)].next_sibling) {
      const int common = common_prefix(tokens(NodeId(id)), tokens(NodeId(s)));
      QUIPU_CHECK(n.pins + nodes_[static_cast<size_t>(s)].pins > 0 ||
                      common < std::min(n.num_tokens, nodes_[static_cast<size_t>(s)].num_tokens),
                  "siblings {} and {} overlap", i, s);
    }
    if (evictable(n)) {
      ++evictable_nodes;
      QUIPU_CHECK(order_.contains(order_key(id)), "node {} is missing in the eviction order", i);
    }
  }
  QUIPU_CHECK(evictable_nodes == order_.size(), "{} nodes in the order, {} evictable",
              order_.size(), evictable_nodes);
  QUIPU_CHECK(live_nodes == num_nodes_ && cached == num_cached_, "counts {} {} and {} {}",
              live_nodes, num_nodes_, cached, num_cached_);
}

}  // namespace quipu
