// PrefixIndex: which runs of tokens have their keys and values in memory, and in which blocks.
//
// A radix tree over tokens. A node is one block: its tokens follow its parent's, and it owns a
// reference to the block that holds them. Nodes with block_tokens tokens are closed: immutable,
// hashed, shared. A node with fewer is a tail, what a finished sequence left in its last block; it
// has no children.
//
//   root (salt A) -- [the quick brown fox ...] -- [jumps over ...] -- tail [the]
//                                              \- [sleeps under ..]
//   root (salt B) -- ...                          nothing is shared between roots
//
// Look-up is by longest match, token for token. The first tokens of a node can match without the
// rest: the caller then copies that part of the block (copy on write).
//
// A sequence that runs holds the nodes of its path (acquire / release); they cannot be evicted.
// Eviction takes leaves only, the least worthy first, so that what is left is always reachable.
//
// Invariants (check_invariants):
//   1. a tail has no children and no holders; a closed node has exactly block_tokens tokens;
//   2. a node's holders are at least those of any child (holding is by whole paths from the root);
//   3. siblings differ: no two closed ones have equal tokens, no tail is a prefix of a sibling;
//   4. the eviction order holds exactly the nodes without children, holders and pins.
// OWNS: block references of its nodes. THREADS: engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/strong_id.h"
#include "kv/block_key.h"
#include "kv/block_pool.h"
#include "kv/eviction_policy.h"

namespace quipu {

using NodeId = StrongId<struct NodeIdTag, int32_t>;

// How a caller wants its blocks treated. Higher priorities outlive lower ones whatever their worth.
struct Retention {
  int priority = 0;
  std::optional<int64_t> expires_ns;  // then it goes before everything else
};

class PrefixIndex {
 public:
  PrefixIndex(int block_tokens, std::string fingerprint, std::unique_ptr<EvictionPolicy> policy);
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Where the prefixes of one salt begin; made when first asked for.
  NodeId root(std::string_view salt);

  struct Match {
    std::vector<NodeId> path;       // closed nodes that match whole, from the root's child down
    std::optional<NodeId> partial;  // a child of the last one of which the first tokens match
    int partial_tokens = 0;
    int64_t tokens = 0;  // path.size() * block_tokens + partial_tokens
  };
  // The longest cached beginning of `tokens`. Changes nothing.
  Match match(NodeId root, std::span<const TokenId> tokens) const;

  BlockRef share_block(NodeId node) const;
  BlockId block_id(NodeId node) const { return nodes_[index(node)].block.id(); }
  const BlockKey& key(NodeId node) const { return nodes_[index(node)].key; }
  std::span<const TokenId> tokens(NodeId node) const;

  // Counts a use of the node (for eviction) and, for acquire, a holder of it.
  void touch(NodeId node);
  void acquire(NodeId node);
  void release(NodeId node);

  // Puts a full block under `parent` and makes the caller a holder of the node. When equal tokens
  // are there already, that node is given instead and `block` is dropped: `folded` says so, and the
  // caller must use the node's block. REQUIRES: the caller holds `parent` (or it is a root);
  // tokens.size() == block_tokens.
  struct Inserted {
    NodeId node;
    bool folded = false;
  };
  Inserted insert(NodeId parent, std::span<const TokenId> tokens, BlockRef block,
                  const Retention& retention);

  // Leaves the unfilled last block of a finished sequence under `parent`. Dropped when its tokens
  // are a prefix of what is there; a tail that it extends is replaced. REQUIRES: 0 < tokens.size()
  // < block_tokens.
  void insert_tail(NodeId parent, std::span<const TokenId> tokens, BlockRef block,
                   const Retention& retention);

  // Takes a tail out of the index, so that a sequence can go on writing in its block without a
  // copy.
  BlockRef take_tail(NodeId tail);
  bool is_tail(NodeId node) const { return nodes_[index(node)].num_tokens < block_tokens_; }

  // Pinned nodes, and so all that leads to them, stay.
  bool is_pinned(NodeId node) const { return nodes_[index(node)].pins > 0; }
  void pin(NodeId node);
  void unpin(NodeId node);

  // Evicts the least worthy leaf and gives its block back. `keep` is passed over. False when
  // nothing can go.
  bool evict_one(int64_t now_ns, std::optional<NodeId> keep = std::nullopt);
  // Evicts everything that nobody holds or pinned.
  void clear();

  int num_nodes() const { return num_nodes_; }
  // Blocks that only the index holds: they could be evicted, leaves first. UNITS: blocks.
  int num_cached_blocks() const { return num_cached_; }
  size_t index_bytes() const;  // UNITS: bytes of bookkeeping
  std::string_view policy_name() const { return policy_->name(); }

  void check_invariants() const;

 private:
  static constexpr int32_t kNone = -1;

  struct Node {
    int32_t parent = kNone, first_child = kNone, next_sibling = kNone, previous_sibling = kNone;
    int32_t num_tokens = 0;  // 0: a root
    int32_t holders = 0, pins = 0, hits = 0, priority = 0;
    int64_t position = 0;  // tokens before this block
    double worth = 0;
    std::optional<int64_t> expires_ns;
    BlockKey key;
    BlockRef block;
    bool live = false;
  };
  // Expired first, then by priority, then by worth.
  using OrderKey = std::tuple<int32_t, double, int32_t>;

  struct ChildKey {
    int32_t parent;
    uint64_t hash;
    bool operator==(const ChildKey&) const = default;
  };
  struct ChildKeyHash {
    size_t operator()(const ChildKey& key) const noexcept {
      return key.hash ^ (static_cast<uint64_t>(key.parent) * 0x9E3779B97F4A7C15ull);
    }
  };

  static size_t index(NodeId node) { return static_cast<size_t>(node.value()); }
  Node& at(NodeId node) { return nodes_[index(node)]; }
  TokenId* token_slots(int32_t node) {
    return tokens_.data() + static_cast<size_t>(node) * static_cast<size_t>(block_tokens_);
  }
  const TokenId* token_slots(int32_t node) const {
    return tokens_.data() + static_cast<size_t>(node) * static_cast<size_t>(block_tokens_);
  }

  NodeId new_node(NodeId parent, std::span<const TokenId> tokens, BlockRef block,
                  const Retention& retention);
  void remove_node(NodeId node);
  std::optional<NodeId> find_closed_child(NodeId parent, std::span<const TokenId> tokens) const;
  std::pair<int32_t, int> best_partial_child(NodeId parent, std::span<const TokenId> tokens) const;
  ChildKey child_key(int32_t parent, std::span<const TokenId> tokens) const;

  bool evictable(const Node& node) const;
  // Brackets every change of a node: out of the order before, back in after.
  template <typename Change>
  void change_node(NodeId node, Change&& change);
  OrderKey order_key(int32_t node) const;
  void expire(int64_t now_ns);

  int block_tokens_;
  std::string fingerprint_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;  // SHAPE: [nodes, block_tokens]
  std::vector<int32_t> unused_;
  std::unordered_map<ChildKey, int32_t, ChildKeyHash> closed_children_;
  std::unordered_map<std::string, NodeId> roots_;
  std::set<OrderKey> order_;                        // evictable nodes, first to go first
  std::set<std::pair<int64_t, int32_t>> expiring_;  // live nodes with a time to live
  int64_t uses_ = 0;
  int num_nodes_ = 0;
  int num_cached_ = 0;
};

}  // namespace quipu
