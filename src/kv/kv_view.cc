#include "kv/kv_view.h"

#include <algorithm>
#include <queue>
#include <unordered_map>
#include <utility>

namespace quipu {

namespace {

// The owner of every node: that of its root, carried down path by path.
class NodeOwners {
 public:
  NodeOwners(const PrefixIndex& index, const KvOwnerOf& owner_of) {
    std::unordered_map<int32_t, KvOwner> roots;
    for (const auto& [salt, root] : index.roots()) roots.emplace(root.value(), owner_of(salt));
    index.for_each_node([&](const PrefixIndex::NodeFacts& facts) {
      const auto at = static_cast<size_t>(facts.node.value());
      if (parents_.size() <= at) {
        parents_.resize(at + 1, kUnknown);
        owners_.resize(at + 1, kUnknown);
      }
      if (facts.parent.has_value()) {
        parents_[at] = facts.parent->value();
      } else {
        const auto root = roots.find(facts.node.value());
        owners_[at] = root == roots.end() ? kNoOwner : root->second;
      }
    });
  }

  KvOwner of(NodeId node) {
    path_.clear();
    int32_t at = node.value();
    for (; owners_[static_cast<size_t>(at)] == kUnknown; at = parents_[static_cast<size_t>(at)])
      path_.push_back(at);
    const KvOwner owner = owners_[static_cast<size_t>(at)];
    for (const int32_t passed : path_) owners_[static_cast<size_t>(passed)] = owner;
    return owner;
  }

 private:
  static constexpr int32_t kUnknown = -2;
  std::vector<int32_t> parents_;
  std::vector<KvOwner> owners_;
  std::vector<int32_t> path_;
};

// Nodes with their children as lists, by node id.
struct Family {
  explicit Family(const PrefixIndex& index) {
    index.for_each_node([&](const PrefixIndex::NodeFacts& node) {
      const auto at = static_cast<size_t>(node.node.value());
      if (facts.size() <= at) facts.resize(at + 1);
      facts[at] = node;
    });
    first_child.assign(facts.size(), -1);
    next_sibling.assign(facts.size(), -1);
    index.for_each_node([&](const PrefixIndex::NodeFacts& node) {
      if (!node.parent.has_value()) return;
      const auto at = static_cast<size_t>(node.node.value());
      const auto parent = static_cast<size_t>(node.parent->value());
      next_sibling[at] = first_child[parent];
      first_child[parent] = node.node.value();
    });
  }
  std::vector<PrefixIndex::NodeFacts> facts;
  std::vector<int32_t> first_child, next_sibling;
};

KvRunView run_from(const PrefixIndex& index, const Family& family, int32_t& node, int block_tokens,
                   size_t first_tokens_max) {
  const PrefixIndex::NodeFacts& first = family.facts[static_cast<size_t>(node)];
  KvRunView run{.position = first.position,
                .hits = first.hits,
                .holders = first.holders,
                .last_use_ns = first.last_use_ns};
  while (true) {
    const PrefixIndex::NodeFacts& facts = family.facts[static_cast<size_t>(node)];
    run.tokens += facts.tokens;
    ++run.nodes;
    run.pins += facts.pins;
    run.ends_in_tail = facts.tokens < block_tokens;
    for (const TokenId token : index.tokens(facts.node)) {
      if (run.first_tokens.size() < first_tokens_max) run.first_tokens.push_back(token);
    }
    if (facts.children != 1) break;
    const int32_t child = family.first_child[static_cast<size_t>(node)];
    const PrefixIndex::NodeFacts& next = family.facts[static_cast<size_t>(child)];
    if (next.hits != run.hits || next.holders != run.holders) break;
    node = child;
  }
  return run;
}

}  // namespace

std::vector<KvBlockView> view_blocks(const KvCache& cache, int group, const KvOwnerOf& owner_of) {
  const PrefixIndex& index = cache.index();
  std::vector<KvBlockView> blocks(static_cast<size_t>(cache.total_blocks(group)));
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (cache.is_free(group, BlockId(static_cast<int32_t>(i)))) continue;
    blocks[i].state = KvBlockState::kOpen;
  }
  for (const BlockId id : cache.blocks_in_flight(group))
    blocks[static_cast<size_t>(id.value())].state = KvBlockState::kInFlight;
  NodeOwners owners(index, owner_of);
  index.for_each_node([&](const PrefixIndex::NodeFacts& facts) {
    if (!facts.parent.has_value() || !index.has_block(facts.node, group)) return;
    const int users = index.block_users(facts.node, group);
    blocks[static_cast<size_t>(index.block_id(facts.node, group).value())] = {
        .state = users > 0 ? KvBlockState::kClosed : KvBlockState::kCached,
        .owner = owners.of(facts.node),
        .users = users,
        .hits = facts.hits,
        .last_use_ns = facts.last_use_ns};
  });
  return blocks;
}

std::vector<KvRunView> view_tree(const KvCache& cache, const KvOwnerOf& owner_of,
                                 const KvTreeLimits& limits) {
  const PrefixIndex& index = cache.index();
  const Family family(index);
  // What may be shown next: its last use, its first node, the run before it, its owner.
  struct Candidate {
    int64_t last_use_ns;
    int32_t node;
    int parent;
    KvOwner owner;
    bool operator<(const Candidate& other) const {
      return std::pair(last_use_ns, -node) < std::pair(other.last_use_ns, -other.node);
    }
  };
  std::priority_queue<Candidate> candidates;
  const auto add_children = [&](int32_t node, int parent, KvOwner owner) {
    int count = 0;
    for (int32_t child = family.first_child[static_cast<size_t>(node)]; child >= 0;
         child = family.next_sibling[static_cast<size_t>(child)]) {
      candidates.push({family.facts[static_cast<size_t>(child)].last_use_ns, child, parent, owner});
      ++count;
    }
    return count;
  };
  for (const auto& [salt, root] : index.roots()) {
    if (const KvOwner owner = owner_of(salt); owner != kNoOwner)
      add_children(root.value(), -1, owner);
  }
  std::vector<KvRunView> runs;
  while (!candidates.empty() && runs.size() < limits.runs_max) {
    const Candidate next = candidates.top();
    candidates.pop();
    int32_t node = next.node;
    KvRunView run = run_from(index, family, node, cache.block_tokens(), limits.first_tokens_max);
    run.parent = next.parent;
    run.owner = next.owner;
    if (next.parent >= 0) --runs[static_cast<size_t>(next.parent)].hidden_children;
    run.hidden_children = add_children(node, static_cast<int>(runs.size()), next.owner);
    runs.push_back(std::move(run));
  }
  return runs;
}

}  // namespace quipu
