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

// What windows left behind goes before what they did not.
EvictionOrder::Place PrefixIndex::window_place(NodeId node, int group) const {
  const WindowUse& use = window_use(node, group);
  return {2 * int64_t{nodes_[index(node)].priority} + (use.left_behind ? 0 : 1), use.worth,
          node.value(), use.queue};
}

void PrefixIndex::place_window_by_use(NodeId node, int group) {
  WindowUse& use = window_use(node, group);
  EvictionPolicy& policy = windows_[window_index(group)].order.policy();
  const NodeUse now = {.sequence_number = ++uses_,
                       .time_ns = now_ns_,
                       .position = position(nodes_[index(node)]),
                       .hits = use.hits};
  use.left_behind = false;
  use.queue = static_cast<uint8_t>(policy.queue_of(now));
  use.worth = policy.worth(now);
  policy.waits(use.queue);
}

template <typename Change>
void PrefixIndex::change_window(NodeId node, int group, Change&& change) {
  WindowGroup& window = windows_[window_index(group)];
  WindowUse& use = window_use(node, group);
  const bool had_block = has_block(node, group);
  const bool was_cached = had_block && use.users == 0;
  const bool was_kept = was_cached && use.pins > 0;
  if (window_evictable(node, group)) window.order.erase(window_place(node, group));
  change(use);
  if (window_evictable(node, group)) window.order.insert(window_place(node, group));
  const bool has_block_now = has_block(node, group);
  window.blocks += static_cast<int>(has_block_now) - static_cast<int>(had_block);
  const bool is_cached = has_block_now && use.users == 0;
  window.cached += static_cast<int>(is_cached) - static_cast<int>(was_cached);
  window.kept += static_cast<int>(is_cached && use.pins > 0) - static_cast<int>(was_kept);
}

void PrefixIndex::take_out_of_window_orders(NodeId node) {
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    if (window_evictable(node, group))
      windows_[window_index(group)].order.erase(window_place(node, group));
  }
}

void PrefixIndex::put_into_window_orders(NodeId node) {
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    if (window_evictable(node, group))
      windows_[window_index(group)].order.insert(window_place(node, group));
  }
}

void PrefixIndex::give_window_block(NodeId node, int group, BlockRef block) {
  change_window(node, group, [&](WindowUse&) {
    this->block(node, group) = std::move(block);
    place_window_by_use(node, group);
  });
}

void PrefixIndex::drop_window_block(NodeId node, int group) {
  change_window(node, group, [&](WindowUse&) { block(node, group) = BlockRef(); });
}

void PrefixIndex::touch_window(NodeId node, int group) {
  change_window(node, group, [&](WindowUse& use) {
    windows_[window_index(group)].order.policy().returned(
        use.queue, now_ns_ - nodes_[index(node)].last_use_ns);
    ++use.hits;
    place_window_by_use(node, group);
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

void PrefixIndex::pin_windows(NodeId node, int tokens, int difference) {
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    for_each_kept(node, tokens, group, [&](NodeId kept) {
      change_window(kept, group, [&](WindowUse& use) { use.pins += difference; });
    });
  }
}

// What a sequence needs to go on after the first `tokens` tokens of the node.
void PrefixIndex::for_each_kept(NodeId node, int tokens, int group,
                                const std::function<void(NodeId)>& visit) const {
  const int64_t end = position(nodes_[index(node)]) + tokens;
  const KvLifetime& lifetime = groups_[static_cast<size_t>(group)];
  const int64_t first = is_windowed(group) ? first_block_needed(lifetime, block_tokens_, end) : 0;
  for (NodeId n = node; nodes_[index(n)].num_tokens > 0; n = NodeId(nodes_[index(n)].parent)) {
    const int64_t i = nodes_[index(n)].block_index;
    if (i >= first || i < sink_blocks(lifetime, block_tokens_)) visit(n);
  }
}

std::optional<NodeId> PrefixIndex::window_victim(int group, std::optional<NodeId> keep) {
  expire();
  const std::optional<EvictionOrder::Place> least = windows_[window_index(group)].order.least(
      now_ns_, keep.has_value() ? std::optional(keep->value()) : std::nullopt);
  return least.has_value() ? std::optional(NodeId(least->node)) : std::nullopt;
}

void PrefixIndex::evict_window_block(NodeId node, int group) {
  // What windows left behind says nothing about the worth of what is kept.
  const WindowUse& use = window_use(node, group);
  if (!use.left_behind) windows_[window_index(group)].order.policy().evicted(use.worth);
  drop_window_block(node, group);
  remove_bare_leaves(node);
}

void PrefixIndex::check_window_invariants() const {
  for (int group = keeps_everything_ ? 1 : 0; group < num_groups(); ++group) {
    const WindowGroup& window = windows_[window_index(group)];
    size_t evictable_blocks = 0;
    int blocks = 0, cached = 0, kept = 0;
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
      kept += use.users == 0 && use.pins > 0;
      const int references = block(node, group).references();
      QUIPU_CHECK(references == 1 + use.users, "node {}, group {}: {} references, {} users", i,
                  group, references, use.users);
      if (!window_evictable(node, group)) continue;
      ++evictable_blocks;
      QUIPU_CHECK(window.order.contains(window_place(node, group)),
                  "node {} is missing in the order of group {}", i, group);
    }
    QUIPU_CHECK(evictable_blocks == window.order.size(), "{} blocks in the order, {} evictable",
                window.order.size(), evictable_blocks);
    QUIPU_CHECK(blocks == window.blocks && cached == window.cached && kept == window.kept,
                "counts {} {}, {} {} and {} {}", blocks, window.blocks, cached, window.cached, kept,
                window.kept);
  }
}

}  // namespace quipu
