// The children of a node of the prefix index, and how they are found.
//
// Children that begin with the same token form a list, the one linked last first. The head of one
// list stands in the parent (head_child), those of all others in first_children_. A child is found
// by its whole tokens in closed_children_, unless it is the head child, which is compared at once.
// Nodes with one child at most, which is nearly all of them, are in no table.
#include <xxhash.h>

#include <algorithm>

#include "kv/prefix_index.h"

namespace quipu {

uint32_t PrefixIndex::child_hash(int32_t parent, std::span<const TokenId> tokens) {
  return static_cast<uint32_t>(
      XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), static_cast<uint64_t>(parent)));
}

uint32_t PrefixIndex::first_token_hash(int32_t parent, TokenId token) {
  const uint64_t both =
      (static_cast<uint64_t>(static_cast<uint32_t>(parent)) << 32) | static_cast<uint32_t>(token);
  return static_cast<uint32_t>((both * 0x9E3779B97F4A7C15ull) >> 32);
}

int PrefixIndex::common_tokens(std::span<const TokenId> a, std::span<const TokenId> b) {
  const auto limit = static_cast<ptrdiff_t>(std::min(a.size(), b.size()));
  return static_cast<int>(std::mismatch(a.begin(), a.begin() + limit, b.begin()).first - a.begin());
}

std::optional<NodeId> PrefixIndex::find_closed_child(NodeId parent,
                                                     std::span<const TokenId> tokens) const {
  const Node& p = nodes_[index(parent)];
  if (p.head_child != kNone) {
    prefetch_node(nodes_[static_cast<size_t>(p.head_child)].head_child);  // a path goes on there
    if (std::ranges::equal(this->tokens(NodeId(p.head_child)), tokens)) return NodeId(p.head_child);
  }
  if (!has_more_children(p)) return std::nullopt;
  // A hash finds, the tokens decide.
  const std::optional<int32_t> child =
      closed_children_.find(child_hash(parent.value(), tokens), [&](int32_t id) {
        return nodes_[static_cast<size_t>(id)].parent == parent.value() &&
               std::ranges::equal(this->tokens(NodeId(id)), tokens);
      });
  return child.has_value() ? std::optional(NodeId(*child)) : std::nullopt;
}

int32_t PrefixIndex::first_child_with(const Node& parent, int32_t parent_id, TokenId token) const {
  if (parent.head_child != kNone &&
      nodes_[static_cast<size_t>(parent.head_child)].first_token == token)
    return parent.head_child;
  if (!has_more_children(parent)) return kNone;
  return first_children_
      .find(first_token_hash(parent_id, token),
            [&](int32_t id) {
              const Node& n = nodes_[static_cast<size_t>(id)];
              return n.parent == parent_id && n.first_token == token;
            })
      .value_or(kNone);
}

// The child with the most first tokens in common, and how many. SHAPE: {kNone, 0} when none has
// any.
std::pair<int32_t, int> PrefixIndex::best_partial_child(NodeId parent,
                                                        std::span<const TokenId> wanted,
                                                        Children children) const {
  std::pair<int32_t, int> best = {kNone, 0};
  if (wanted.empty()) return best;
  for (int32_t child =
           first_child_with(nodes_[index(parent)], parent.value(), wanted.front());
       child != kNone;
       child = nodes_[static_cast<size_t>(child)].next_sibling) {
    if (children == Children::kWithAllBlocks && !has_all_blocks(NodeId(child))) continue;
    const int common = common_tokens(tokens(NodeId(child)), wanted);
    if (common > best.second) best = {child, common};
  }
  return best;
}

std::pair<std::optional<NodeId>, int> PrefixIndex::nearest_child(
    NodeId parent, std::span<const TokenId> wanted) const {
  const auto [child, common] = best_partial_child(parent, wanted, Children::kAll);
  return {child == kNone ? std::nullopt : std::optional(NodeId(child)), common};
}

bool PrefixIndex::is_extended(NodeId node) const {
  const Node& n = nodes_[index(node)];
  const Node& parent = nodes_[static_cast<size_t>(n.parent)];
  for (int32_t child = first_child_with(parent, n.parent, n.first_token); child != kNone;
       child = nodes_[static_cast<size_t>(child)].next_sibling) {
    if (child != node.value() && common_tokens(tokens(NodeId(child)), tokens(node)) == n.num_tokens)
      return true;
  }
  return false;
}

// REQUIRES: the parent counts it among its children already.
void PrefixIndex::link_child(NodeId node) {
  Node& n = at(node);
  Node& parent = at(NodeId(n.parent));
  const int32_t head = parent.children == 1 ? kNone
                                            : first_child_with(parent, n.parent, n.first_token);
  n.next_sibling = head;
  if (head != kNone) nodes_[static_cast<size_t>(head)].previous_sibling = node.value();
  if (head == parent.head_child) {  // the head child's list, or none where there is no head child
    parent.head_child = node.value();
    if (head != kNone) hash_child(NodeId(head));
    return;
  }
  if (head == kNone) {
    first_children_.insert(first_token_hash(n.parent, n.first_token), node.value());
  } else {
    first_children_.replace(first_token_hash(n.parent, n.first_token), head, node.value());
  }
  hash_child(node);
}

void PrefixIndex::unlink_child(NodeId node) {
  Node& n = at(node);
  Node& parent = at(NodeId(n.parent));
  if (n.is_hashed) closed_children_.erase(n.hash, node.value());
  n.is_hashed = false;
  if (n.next_sibling != kNone)
    nodes_[static_cast<size_t>(n.next_sibling)].previous_sibling = n.previous_sibling;
  if (n.previous_sibling != kNone) {
    nodes_[static_cast<size_t>(n.previous_sibling)].next_sibling = n.next_sibling;
  } else if (parent.head_child == node.value()) {
    parent.head_child = n.next_sibling;
  } else if (n.next_sibling != kNone) {
    first_children_.replace(first_token_hash(n.parent, n.first_token), node.value(),
                            n.next_sibling);
  } else {
    first_children_.erase(first_token_hash(n.parent, n.first_token), node.value());
  }
}

// What is not the head child any more is found by its hash.
void PrefixIndex::hash_child(NodeId node) {
  Node& n = at(node);
  if (n.num_tokens < block_tokens_ || n.is_hashed) return;
  n.hash = child_hash(n.parent, tokens(node));
  n.is_hashed = true;
  closed_children_.insert(n.hash, node.value());
}

// Starts to fetch what a walk over a node reads; memory answers while something else is done.
void PrefixIndex::prefetch_node(int32_t node) const {
  if (node == kNone) return;
  const auto* bytes = reinterpret_cast<const char*>(&nodes_[static_cast<size_t>(node)]);
  __builtin_prefetch(bytes);
  __builtin_prefetch(bytes + sizeof(Node) - 1);
  __builtin_prefetch(token_slots(node));
  __builtin_prefetch(&blocks_[static_cast<size_t>(node) * groups_.size()]);
}

}  // namespace quipu
