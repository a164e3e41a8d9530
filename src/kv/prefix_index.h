// PrefixIndex: which runs of tokens have their keys and values in memory, and in which blocks.
//
// A radix tree over tokens. A node is one block of tokens, which follow its parent's; in each
// stream group it owns a reference to the block that holds their keys and values. Nodes with
// block_tokens tokens are closed: immutable, hashed, shared. A node with fewer is a tail, what a
// finished sequence left in its last block; it has no children.
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
// Windows. To go on after p tokens, a windowed group needs its blocks of the window before p and of
// the sinks, not those between. So a node may have lost its block in a windowed group and stay, and
// a match ends where every windowed group is whole. When the pool of such a group runs short, it
// evicts blocks of its own: first those that the window of the sequence that computed them has
// left, then by worth. Where no group keeps everything, a leaf that has lost all blocks goes too.
//
// Invariants (check_invariants):
//   1. a tail has no children and no holders; a closed node has exactly block_tokens tokens;
//   2. a node's holders, and its pins, are at least those of any child (both are by whole paths
//   from
//      the root);
//   3. siblings differ: no two closed ones have equal tokens, no tail is a prefix of a sibling;
//   4. the eviction order holds exactly the nodes without children, holders and pins; that of a
//      windowed group exactly the nodes whose block nobody uses or pins;
//   5. every node has its block in the group that keeps everything;
//   6. a block's references are the index's own and one for each holder of the node (in a windowed
//      group: for each user of the block).
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

#include "backend/kv_layout.h"
#include "base/strong_id.h"
#include "kv/block_key.h"
#include "kv/block_pool.h"
#include "kv/eviction_order.h"
#include "kv/ghost_record.h"
#include "kv/id_table.h"

namespace quipu {

using NodeId = StrongId<struct NodeIdTag, int32_t>;

// How a caller wants its blocks treated. Higher priorities outlive lower ones whatever their worth.
struct Retention {
  int priority = 0;
  std::optional<int64_t> expires_ns;  // then it goes before everything else
};

// Tells, block by block from the first, where a sequence finds all that its groups need to go on.
class WindowScan {
 public:
  // OWNS: nothing; `groups` outlives it.
  WindowScan(std::span<const KvLifetime> groups, int block_tokens);

  // Whether the next block of a group is there. Told for every group before the next block.
  void add(size_t group, bool is_there);
  // Whether a sequence can go on after `tokens` tokens. REQUIRES: all blocks of the first `tokens`
  // tokens were told, and no further one.
  bool is_whole(int64_t tokens) const;

 private:
  struct Run {
    int told = 0;
    int begin = 0;  // every block from here to the last one told is there
    bool has_sinks = true;
  };
  std::span<const KvLifetime> groups_;
  int block_tokens_;
  std::vector<Run> runs_;
};

class PrefixIndex {
 public:
  // REQUIRES: at most one group keeps everything, and it is the first.
  // `policy`: known to make_eviction_policy(). `ghosts`: how many evicted nodes are remembered.
  PrefixIndex(int block_tokens, std::vector<KvLifetime> groups, std::string fingerprint,
              std::string_view policy, size_t ghosts);
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Where the prefixes of one salt begin; made when first asked for. It lasts as long as something is
  // under it, or until forget_root_if_empty().
  NodeId root(std::string_view salt);
  // Forgets a salt under which nothing is kept: encoders' inputs make many.
  void forget_root_if_empty(std::string_view salt);
  int num_roots() const { return static_cast<int>(roots_.size()); }

  struct Match {
    std::vector<NodeId> path;       // closed nodes that match whole, from the root's child down
    std::optional<NodeId> partial;  // a child of the last one of which the first tokens match
    int partial_tokens = 0;
    int64_t tokens = 0;  // path.size() * block_tokens + partial_tokens
    // Where the closed nodes end that match, whether or not every group can go on there.
    NodeId last_seen;
    int64_t tokens_seen = 0;  // UNITS: tokens, whole blocks
  };
  // The longest cached beginning of `tokens` after which every group can go on. Changes nothing.
  Match match(NodeId root, std::span<const TokenId> tokens) const;

  // The closed nodes that match, from the root's child down, whatever blocks they have.
  std::vector<NodeId> closed_path(NodeId root, std::span<const TokenId> tokens) const;

  bool has_block(NodeId node, int group) const { return block(node, group).valid(); }
  BlockRef share_block(NodeId node, int group) const { return block(node, group).share(); }
  BlockId block_id(NodeId node, int group) const { return block(node, group).id(); }
  const BlockKey& key(NodeId node) const { return nodes_[index(node)].key; }
  std::span<const TokenId> tokens(NodeId node) const;

  // Counts a use of the node (for eviction) and, for acquire, a holder of it.
  void touch(NodeId node);
  void acquire(NodeId node);
  void release(NodeId node);

  // The same for a node's block in a windowed group. Users are holders of the node whose window
  // (or sinks) it lies in; slide_window() says that a user's window has left it behind.
  void touch_window(NodeId node, int group);
  void acquire_window(NodeId node, int group);
  void release_window(NodeId node, int group);
  void slide_window(NodeId node, int group);

  // The key of a block of tokens after `parent`, told before insert() so that what insert() looks up
  // is at hand by then.
  BlockKey key_after(const BlockKey& parent, std::span<const TokenId> tokens) const;

  // Puts full blocks under `parent` and makes the caller a holder of the node. When equal tokens
  // are there already, that node is given instead: `folded` says so, it takes from `blocks` those
  // it had lost, and the caller must use the node's blocks. SHAPE: blocks: [groups], moved from.
  // REQUIRES: the caller holds `parent` (or it is a root); tokens.size() == block_tokens;
  // key == key_after(key(parent), tokens).
  struct Inserted {
    NodeId node;
    bool folded = false;
  };
  Inserted insert(NodeId parent, std::span<const TokenId> tokens, const BlockKey& key,
                  std::span<BlockRef> blocks, const Retention& retention);

  // Leaves the unfilled last blocks of a finished sequence under `parent`. Dropped when its tokens
  // are a prefix of what is there; a tail that it extends is replaced. SHAPE: blocks: [groups],
  // moved from. REQUIRES: 0 < tokens.size() < block_tokens.
  void insert_tail(NodeId parent, std::span<const TokenId> tokens, std::span<BlockRef> blocks,
                   const Retention& retention);

  // Takes a tail out of the index, so that a sequence can go on writing in its blocks without a
  // copy. SHAPE: blocks: [groups], filled.
  void take_tail(NodeId tail, std::span<BlockRef> blocks);
  bool is_tail(NodeId node) const { return nodes_[index(node)].num_tokens < block_tokens_; }

  // Keeps the first `tokens` tokens of a node and all that leads to them; in windowed groups the
  // window before that point, and the sinks. unpin() takes the same tokens. A node's pins are those
  // of itself and of all below it.
  bool is_pinned(NodeId node) const { return nodes_[index(node)].pins > 0; }
  void pin(NodeId node, int tokens) { change_pins(node, tokens, 1); }
  void unpin(NodeId node, int tokens);
  // Calls back for each block of a group that such a pin keeps, from the last one up.
  void for_each_kept(NodeId node, int tokens, int group,
                     const std::function<void(NodeId)>& visit) const;

  // The time of what happens from now on. UNITS: ns of the cache's clock; never goes back.
  void set_time(int64_t now_ns) { now_ns_ = now_ns; }

  // The least worthy leaf, but for `keep`; nothing when none can go.
  std::optional<NodeId> victim(std::optional<NodeId> keep = std::nullopt);
  // The node whose block in a windowed group is the least worthy; the node would stay.
  std::optional<NodeId> window_victim(int group, std::optional<NodeId> keep = std::nullopt);
  // Gives back the blocks of a leaf, or a block of a windowed group.
  // REQUIRES: victim() or window_victim() named it, and nothing changed since.
  void evict(NodeId node);
  void evict_window_block(NodeId node, int group);
  // Evicts everything that nobody holds or pinned.
  void clear();

  bool is_windowed(int group) const { return groups_[static_cast<size_t>(group)].is_windowed(); }
  int num_nodes() const { return num_nodes_; }
  // Blocks of a group in the index. UNITS: blocks.
  int num_blocks(int group) const {
    return is_windowed(group) ? windows_[window_index(group)].blocks : num_nodes_;
  }
  // Blocks that only the index holds, and those of them that pins keep. The others could be
  // evicted. UNITS: blocks.
  int num_cached_blocks(int group) const {
    return is_windowed(group) ? windows_[window_index(group)].cached : num_cached_;
  }
  int num_kept_blocks(int group) const {
    return is_windowed(group) ? windows_[window_index(group)].kept : num_kept_;
  }
  size_t index_bytes() const;  // UNITS: bytes of bookkeeping
  std::string_view policy_name() const { return order_.policy().name(); }
  // What became of a block that is not in the index; nothing when it never was, or long ago.
  std::optional<Ghost> ghost(const BlockKey& key) const { return ghosts_.find(ghost_key(key)); }
  // The same of a tail after `parent` that began like `tokens`, with one token at least.
  std::optional<Ghost> tail_ghost(NodeId parent, std::span<const TokenId> tokens) const;
  // The child of `parent` that begins like `tokens`, and for how many of them.
  std::pair<std::optional<NodeId>, int> nearest_child(NodeId parent,
                                                      std::span<const TokenId> tokens) const;
  // Whether a block may be kept elsewhere when it is evicted: its time to live is not limited.
  bool may_outlive(NodeId node) const;
  const std::unordered_map<std::string, NodeId>& roots() const { return roots_; }

  // What there is to know of a node, for whoever shows the tree (kv/kv_view.h).
  struct NodeFacts {
    NodeId node;
    std::optional<NodeId> parent;  // nothing: a root
    int32_t tokens = 0, children = 0, holders = 0, pins = 0, hits = 0;
    int64_t position = 0;  // tokens before this block
    int64_t last_use_ns = 0;
  };
  // Every node, roots too, in no order. O(nodes).
  void for_each_node(const std::function<void(const NodeFacts&)>& visit) const;
  // Sequences that need the node's block of a group. REQUIRES: has_block(node, group).
  int block_users(NodeId node, int group) const {
    return is_windowed(group) ? window_use(node, group).users : nodes_[index(node)].holders;
  }

  void check_invariants() const;

 private:
  static constexpr int32_t kNone = -1;

  struct Node {
    int32_t parent = kNone;
    // Siblings that begin with the same token.
    int32_t next_sibling = kNone, previous_sibling = kNone;
    // The first of one list of children; the heads of the others are in first_children_.
    int32_t head_child = kNone;
    int32_t children = 0;
    int32_t num_tokens = 0;  // 0: a root
    int32_t holders = 0, pins = 0, hits = 0, priority = 0;
    TokenId first_token = 0;
    uint32_t hash = 0;        // of parent and tokens, where is_hashed
    uint8_t queue = 0;        // of the policy, with `worth`
    bool live = false;
    bool expires = false;     // at expiry_
    bool is_hashed = false;   // in closed_children_
    int32_t block_index = 0;  // blocks before this one
    int64_t last_use_ns = 0;
    double worth = 0;
    BlockKey key;
  };
  // A node's block in a windowed group.
  struct WindowUse {
    int32_t users = 0, pins = 0, hits = 0;
    bool left_behind = false;  // by the window of the sequence that computed it, and never hit
    uint8_t queue = 0;
    double worth = 0;
  };
  struct WindowGroup {
    explicit WindowGroup(std::unique_ptr<EvictionPolicy> policy) : order(std::move(policy)) {}
    EvictionOrder order;  // nodes whose block is evictable
    int blocks = 0;       // in the index
    int cached = 0;       // without users
    int kept = 0;         // of those, pinned
  };

  static size_t index(NodeId node) { return static_cast<size_t>(node.value()); }
  Node& at(NodeId node) { return nodes_[index(node)]; }
  TokenId* token_slots(int32_t node) {
    return tokens_.data() + static_cast<size_t>(node) * static_cast<size_t>(block_tokens_);
  }
  const TokenId* token_slots(int32_t node) const {
    return tokens_.data() + static_cast<size_t>(node) * static_cast<size_t>(block_tokens_);
  }

  const BlockRef& block(NodeId node, int group) const {
    return blocks_[index(node) * groups_.size() + static_cast<size_t>(group)];
  }
  BlockRef& block(NodeId node, int group) {
    return blocks_[index(node) * groups_.size() + static_cast<size_t>(group)];
  }
  // Windowed groups are counted without the one that keeps everything.
  size_t window_index(int group) const {
    return static_cast<size_t>(group) - (keeps_everything_ ? 1 : 0);
  }
  WindowUse& window_use(NodeId node, int group) {
    return window_uses_[index(node) * windows_.size() + window_index(group)];
  }
  const WindowUse& window_use(NodeId node, int group) const {
    return window_uses_[index(node) * windows_.size() + window_index(group)];
  }
  int num_groups() const { return static_cast<int>(groups_.size()); }
  bool has_all_blocks(NodeId node) const;

  NodeId new_node(NodeId parent, std::span<const TokenId> tokens, const BlockKey& key,
                  std::span<BlockRef> blocks, const Retention& retention, int holders);
  void give_block(NodeId node, int group, BlockRef block);
  void give_window_block(NodeId node, int group, BlockRef block);
  void drop_window_block(NodeId node, int group);
  void remove_node(NodeId node);
  void remove_bare_leaves(NodeId node);
  // Whether a sibling begins with all of the node's tokens.
  bool is_extended(NodeId node) const;
  void remove_extended_tail(NodeId parent, std::span<const TokenId> tokens);
  void change_pins(NodeId node, int tokens, int difference);
  void pin_windows(NodeId node, int tokens, int difference);
  std::optional<NodeId> find_closed_child(NodeId parent, std::span<const TokenId> tokens) const;
  // Which children a search for a part of a block considers.
  enum class Children { kAll, kWithAllBlocks };
  std::pair<int32_t, int> best_partial_child(NodeId parent, std::span<const TokenId> tokens,
                                             Children children) const;
  int64_t position(const Node& node) const { return int64_t{node.block_index} * block_tokens_; }

  // Children (prefix_children.cc).
  static int common_tokens(std::span<const TokenId> a, std::span<const TokenId> b);
  static uint32_t child_hash(int32_t parent, std::span<const TokenId> tokens);
  static uint32_t first_token_hash(int32_t parent, TokenId token);
  // Whether a node has children that are not its head child.
  static bool has_more_children(const Node& node) {
    return node.children > (node.head_child == kNone ? 0 : 1);
  }
  // The first of the children that begin with a token; kNone when there is none.
  int32_t first_child_with(const Node& parent, int32_t parent_id, TokenId token) const;
  void link_child(NodeId node);
  void unlink_child(NodeId node);
  void hash_child(NodeId node);
  void prefetch_node(int32_t node) const;
  static uint64_t ghost_key(const BlockKey& key);
  static uint64_t tail_ghost_key(const BlockKey& parent, std::span<const TokenId> tokens);
  uint64_t ghost_key_of(NodeId node) const;
  void remember(NodeId node, GoneReason reason);

  bool evictable(const Node& node) const;
  // Brackets every change of a node: out of the order before, back in after.
  template <typename Change>
  void change_node(NodeId node, Change&& change);
  // Its place among its likes from now on. REQUIRES: the node is not in the order.
  void place_by_use(NodeId node);
  EvictionOrder::Place place(NodeId node) const;
  bool window_evictable(NodeId node, int group) const;
  // Brackets every change of a node's block in a windowed group, and of what decides its turn.
  template <typename Change>
  void change_window(NodeId node, int group, Change&& change);
  void place_window_by_use(NodeId node, int group);
  EvictionOrder::Place window_place(NodeId node, int group) const;
  void take_out_of_window_orders(NodeId node);
  void put_into_window_orders(NodeId node);
  void expire();

  void check_node(NodeId node) const;
  void check_window_invariants() const;

  int block_tokens_;
  std::vector<KvLifetime> groups_;
  bool keeps_everything_;  // the first group does
  std::string fingerprint_;
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;         // SHAPE: [nodes, block_tokens]
  std::vector<BlockRef> blocks_;        // SHAPE: [nodes, groups]
  std::vector<WindowUse> window_uses_;  // SHAPE: [nodes, windowed groups]
  std::vector<WindowGroup> windows_;    // SHAPE: [windowed groups]
  std::vector<int32_t> unused_;
  // Closed children but head children, by parent and tokens. Most nodes have one child at most, so
  // both tables are small.
  IdTable closed_children_;
  IdTable first_children_;  // by parent and first token: heads of lists of siblings
  std::unordered_map<std::string, NodeId> roots_;
  std::unordered_map<int32_t, const std::string*> salts_;  // of the roots; keys of roots_
  EvictionOrder order_;                             // evictable nodes
  std::set<std::pair<int64_t, int32_t>> expiring_;  // live nodes with a time to live
  std::unordered_map<int32_t, int64_t> expiry_;     // of the same nodes
  GhostRecord ghosts_;
  int64_t now_ns_ = 0;
  int64_t uses_ = 0;
  int num_nodes_ = 0;
  int num_cached_ = 0;
  int num_kept_ = 0;
};

}  // namespace quipu
