// The windowed groups of the prefix index: which of a node's blocks are there, who uses them, and
// which goes first when the group's pool runs short.
#include <algorithm>

#include "kv/cache_spec.h"
#include "kv/prefix_index.h"

namespace quipu {

namespace {

// The first block past the sinks that a sequence of `tokens` tokens needs to go on.
int64_t first_block_needed(const KvLifetime& lifetime, int block_tokens, int64_t tokens) {
  return std::max<int64_t>(sink_blocks(lifetime, block_tokens),
                           lifetime.first_seen(tokens) / block_tokens);
}

}  // namespace

WindowScan::WindowScan(std::span<const KvLifetime> groups, int block_tokens)
    : groups_(groups), block_tokens_(block_tokens) {
  const bool any_window =
      std::any_of(groups.begin(), groups.end(), [](const auto& g) { return g.is_windowed(); });
  if (any_window) runs_.resize(groups.size());
}

void WindowScan::add(size_t group, bool is_there) {
  if (runs_.empty()) return;
  Run& run = runs_[group];
  if (!is_there) {
    run.begin = run.told + 1;
    if (run.told < sink_blocks(groups_[group], block_tokens_)) run.has_sinks = false;
  }
  ++run.told;
}

bool WindowScan::is_whole(int64_t tokens) const {
  for (size_t group = 0; group < runs_.size(); ++group) {
    const Run& run = runs_[group];
    if (!run.has_sinks || first_block_needed(groups_[group], block_tokens_, tokens) < run.begin)
      return false;
  }
  return true;
}

bool PrefixIndex::window_evictable(NodeId node, int group) const {
  const WindowUse& use = window_use(node, group);
  return has_block(node, group) && use.users == 0 && use.pins == 0;
}

PrefixIndex::WindowKey PrefixIndex::window_key(NodeId node, int group) const {
  const WindowUse& use = window_use(node, group);
  return {nodes_[index(node)].priority, !use.left_behind, use.worth, node.value()};
}

template <typename Change>
void PrefixIndex::change_window(NodeId node, int group, Change&& change) {
  WindowGroup& window = windows_[window_index(group)];
  WindowUse& use = window_use(node, group);
  const bool had_block = has_block(node, group);
  const bool was_cached = had_block && use.users == 0;
  if (window_evictable(node, group)) window.order.erase(window_key(node, group));
  change(use);
  if (window_evictable(node, group)) window.order.insert(window_key(node, group));
  const bool has_block_now = has_block(node, group);
  window.blocks += static_cast<int>(has_block_now) - static_cast<int>(had_block);
  window.cached += static_cast<int>(has_block_now && use.users == 0) - static_cast<int>(was_cached);
}

void PrefixIndex::take_out_of_window_orders(NodeId node) {
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    if (window_evictable(node, group))
      windows_[window_index(group)].order.erase(window_key(node, group));
  }
}

void PrefixIndex::put_into_window_orders(NodeId node) {
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    if (window_evictable(node, group))
      windows_[window_index(group)].order.insert(window_key(node, group));
  }
}

void PrefixIndex::give_window_block(NodeId node, int group, BlockRef block) {
  change_window(node, group, [&](WindowUse& use) {
    this->block(node, group) = std::move(block);
    use.left_behind = false;
    use.worth = windows_[window_index(group)].policy->worth(
        {.sequence_number = ++uses_, .position = nodes_[index(node)].position, .hits = use.hits});
  });
}

void PrefixIndex::drop_window_block(NodeId node, int group) {
  change_window(node, group, [&](WindowUse&) { block(node, group) = BlockRef(); });
}

void PrefixIndex::touch_window(NodeId node, int group) {
  change_window(node, group, [&](WindowUse& use) {
    ++use.hits;
    use.left_behind = false;
    use.worth = windows_[window_index(group)].policy->worth(
        {.sequence_number = ++uses_, .position = nodes_[index(node)].position, .hits = use.hits});
  });
}

void PrefixIndex::acquire_window(NodeId node, int group) {
  change_window(node, group, [](WindowUse& use) { ++use.users; });
}

// A sequence ended with the block in its window: the next turn would begin here.
void PrefixIndex::release_window(NodeId node, int group) {
  change_window(node, group, [](WindowUse& use) {
    QUIPU_CHECK(use.users > 0, "release of a block nobody uses");
    --use.users;
    use.left_behind = false;
  });
}

void PrefixIndex::slide_window(NodeId node, int group) {
  change_window(node, group, [](WindowUse& use) {
    QUIPU_CHECK(use.users > 0, "release of a block nobody uses");
    --use.users;
    use.left_behind = use.hits == 0;
  });
}

// Adds `difference` to the pins of the blocks that a sequence needs to go on after `node`.
void PrefixIndex::pin_windows(NodeId node, int difference) {
  const int64_t end = nodes_[index(node)].position + nodes_[index(node)].num_tokens;
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    const KvLifetime& lifetime = groups_[static_cast<size_t>(group)];
    const int64_t first = first_block_needed(lifetime, block_tokens_, end);
    for (NodeId n = node; nodes_[index(n)].num_tokens > 0; n = NodeId(nodes_[index(n)].parent)) {
      const int64_t i = nodes_[index(n)].position / block_tokens_;
      if (i < first && i >= sink_blocks(lifetime, block_tokens_)) continue;
      change_window(n, group, [&](WindowUse& use) { use.pins += difference; });
    }
  }
}

bool PrefixIndex::evict_window_block(int group, int64_t now_ns, std::optional<NodeId> keep) {
  expire(now_ns);
  WindowGroup& window = windows_[window_index(group)];
  for (const WindowKey& key : window.order) {
    const NodeId node(std::get<3>(key));
    if (node == keep) continue;
    // What windows left behind says nothing about the worth of what is kept.
    if (!window_use(node, group).left_behind) window.policy->evicted(std::get<2>(key));
    drop_window_block(node, group);
    remove_bare_leaves(node);
    return true;
  }
  return false;
}

void PrefixIndex::check_window_invariants() const {
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    const WindowGroup& window = windows_[window_index(group)];
    size_t evictable_blocks = 0;
    int blocks = 0, cached = 0;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const Node& n = nodes_[i];
      if (!n.live || n.num_tokens == 0) continue;
      const NodeId node(static_cast<int32_t>(i));
      const WindowUse& use = window_use(node, group);
      QUIPU_CHECK(use.users <= n.holders && use.pins >= 0, "node {}: {} users, {} holders", i,
                  use.users, n.holders);
      if (!has_block(node, group)) continue;
      ++blocks;
      cached += use.users == 0;
      const int references = block(node, group).references();
      QUIPU_CHECK(references == 1 + use.users, "node {}, group {}: {} references, {} users", i,
                  group, references, use.users);
      if (!window_evictable(node, group)) continue;
      ++evictable_blocks;
      QUIPU_CHECK(window.order.contains(window_key(node, group)),
                  "node {} is missing in the order of group {}", i, group);
    }
    QUIPU_CHECK(evictable_blocks == window.order.size(), "{} blocks in the order, {} evictable",
                window.order.size(), evictable_blocks);
    QUIPU_CHECK(blocks == window.blocks && cached == window.cached, "counts {} {} and {} {}",
                blocks, window.blocks, cached, window.cached);
  }
}

}  // namespace quipu
