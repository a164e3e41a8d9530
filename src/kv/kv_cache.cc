#include "kv/kv_cache.h"

#include <algorithm>

namespace quipu {

namespace {

std::vector<KvLifetime> lifetimes_of(const KvCacheConfig& config) {
  std::vector<KvLifetime> lifetimes;
  for (const KvGroupConfig& group : config.groups) lifetimes.push_back(group.lifetime);
  return lifetimes;
}

// Evicted blocks are remembered for as long as it takes to fill the cache a few times.
size_t ghosts_for(const KvCacheConfig& config) {
  constexpr size_t kGhostsMin = 4096, kGhostsMax = size_t{1} << 20;
  size_t blocks = 0;
  for (const KvGroupConfig& group : config.groups)
    blocks = std::max(blocks, static_cast<size_t>(group.total_blocks));
  return std::clamp(4 * blocks, kGhostsMin, kGhostsMax);
}

}  // namespace

int SequenceKv::num_blocks() const {
  int blocks = 0;
  for (const BlockTable& table : tables) blocks += table.num_blocks();
  return blocks;
}

KvCache::KvCache(const KvCacheConfig& config, const Clock& clock)
    : config_(config),
      lifetimes_(lifetimes_of(config)),
      clock_(clock),
      index_(config.block_tokens, lifetimes_, config.fingerprint, config.policy,
             ghosts_for(config)),
      blocks_(config.groups.size()),
      in_flight_(config.groups.size()) {
  for (const KvGroupConfig& group : config.groups) pools_.emplace_back(group.total_blocks);
}

SequenceKv KvCache::make_sequence(int64_t tokens_max) const {
  SequenceKv sequence;
  for (const KvLifetime& lifetime : lifetimes_) {
    sequence.tables.emplace_back(config_.block_tokens, lifetime);
    sequence.tables.back().expect(tokens_max, config_.chunk_max);
  }
  return sequence;
}

// ---- beginning from what is cached ----

int64_t KvCache::match_length(const SequenceKv& sequence, std::span<const TokenId> tokens) {
  if (!config_.publish) return 0;
  return index_.match(index_.root(sequence.salt), tokens).tokens;
}

KvExplanation KvCache::begin(SequenceKv& sequence, std::span<const TokenId> tokens,
                             int64_t reuse_max, std::vector<KvCopy>& copies) {
  QUIPU_CHECK(sequence.num_blocks() == 0 && sequence.path.empty(),
              "begin of a sequence that holds blocks");
  KvExplanation found;
  found.prompt_tokens = static_cast<int64_t>(tokens.size());
  found.reason = MissReason::kCacheOff;
  if (!config_.publish) return found;
  index_.set_time(clock_.now_ns());
  const std::span<const TokenId> wanted = tokens.first(
      static_cast<size_t>(std::clamp<int64_t>(reuse_max, 0, static_cast<int64_t>(tokens.size()))));
  const NodeId root = index_.root(sequence.salt);
  PrefixIndex::Match match = index_.match(root, wanted);
  ++counters_.lookups;
  counters_.tokens_looked_up += static_cast<int64_t>(tokens.size());
  found.reason = miss_reason(match, wanted);
  hold_path(sequence, match);
  const int64_t tails_before = counters_.tails_taken;
  if (match.partial.has_value() &&
      !take_partial(sequence, *match.partial, match.partial_tokens, copies)) {
    found.reason = MissReason::kNoRoom;
    // No block for the copy: those tokens are computed again, after what is whole without them.
    const size_t whole = match.path.size() * static_cast<size_t>(config_.block_tokens);
    match = index_.match(root, wanted.first(whole));
    SequenceKv shorter = make_sequence();
    hold_path(shorter, match);  // before the longer path lets go of nodes that both need
    drop_path(sequence, 0);
    std::swap(sequence.tables, shorter.tables);
    std::swap(sequence.path, shorter.path);
  }
  for (size_t i = 0; i < match.path.size(); ++i) {
    index_.touch(match.path[i]);
    for (int group = 0; group < num_groups(); ++group) {
      const BlockTable& table = sequence.tables[static_cast<size_t>(group)];
      if (index_.is_windowed(group) && table.has_block(static_cast<int>(i)))
        index_.touch_window(match.path[i], group);
    }
  }
  found.shared = static_cast<int64_t>(match.path.size()) * config_.block_tokens;
  (counters_.tails_taken > tails_before ? found.tail : found.copied) =
      sequence.num_tokens() - found.shared;
  counters_.blocks_shared += static_cast<int64_t>(match.path.size());
  counters_.tokens_reused += sequence.num_tokens();
  counters_.tokens_shared += found.shared;
  counters_.tokens_tail += found.tail;
  counters_.tokens_copied += found.copied;
  counters_.lookups_hit += sequence.num_tokens() > 0;
  found.counted_as = found.reason;
  if (found.reason == MissReason::kNeverSeen &&
      is_under_other_salt(sequence.salt, sequence.num_tokens(), wanted, "", kSaltsLookedAt))
    found.counted_as = MissReason::kOtherSalt;
  ++counters_.misses[static_cast<size_t>(found.counted_as)];
  return found;
}

// Why a look-up found no more than `match` of `wanted`.
MissReason KvCache::miss_reason(const PrefixIndex::Match& match,
                                std::span<const TokenId> wanted) const {
  if (match.tokens == static_cast<int64_t>(wanted.size())) return MissReason::kNone;
  if (match.tokens_seen > match.tokens) return MissReason::kBelowWindow;
  const std::span<const TokenId> rest = wanted.subspan(static_cast<size_t>(match.tokens_seen));
  const auto block = static_cast<size_t>(config_.block_tokens);
  std::optional<Ghost> ghost;
  if (rest.size() >= block)
    ghost = index_.ghost(block_key(index_.key(match.last_seen), rest.first(block)));
  if (!ghost.has_value() && match.partial_tokens == 0)
    ghost = index_.tail_ghost(match.last_seen, rest);
  if (!ghost.has_value()) return MissReason::kNeverSeen;
  switch (ghost->reason) {
    case GoneReason::kEvicted: return MissReason::kEvicted;
    case GoneReason::kExpired: return MissReason::kExpired;
    case GoneReason::kCleared: return MissReason::kCleared;
  }
  return MissReason::kNeverSeen;
}

// Takes the matching nodes, and of each group's blocks those that it needs to go on.
void KvCache::hold_path(SequenceKv& sequence, const PrefixIndex::Match& match) {
  for (const NodeId node : match.path) {
    index_.acquire(node);
    sequence.path.push_back(node);
  }
  const auto whole = static_cast<int>(match.path.size());
  for (int group = 0; group < num_groups(); ++group) {
    BlockTable& table = sequence.tables[static_cast<size_t>(group)];
    const int sinks = std::min(whole, sink_blocks(lifetime(group), config_.block_tokens));
    const int first = std::min(whole, table.first_needed(match.tokens));
    for (int i = 0; i < whole; ++i) {
      if (i >= sinks && i < first) continue;
      if (i >= sinks) table.skip_to(first);
      const NodeId node = match.path[static_cast<size_t>(i)];
      table.push_whole(index_.share_block(node, group));
      if (index_.is_windowed(group)) index_.acquire_window(node, group);
    }
    table.skip_to(first);
  }
}

// Lets go of the path's nodes from block `blocks` on, and of their blocks.
void KvCache::drop_path(SequenceKv& sequence, int blocks) {
  const auto end = static_cast<int>(sequence.path.size());
  for (int group = 0; group < num_groups(); ++group) {
    BlockTable& table = sequence.tables[static_cast<size_t>(group)];
    for (int i = blocks; i < end && index_.is_windowed(group); ++i) {
      if (table.has_block(i)) index_.release_window(sequence.path[static_cast<size_t>(i)], group);
    }
    table.truncate_blocks(blocks);
  }
  for (int i = end; i > blocks; --i) {
    index_.release(sequence.path.back());
    sequence.path.pop_back();
  }
}

// The first `tokens` tokens of a node: its blocks, when it is a tail that ends there; else copies.
// False without blocks for the copies.
bool KvCache::take_partial(SequenceKv& sequence, NodeId node, int tokens,
                           std::vector<KvCopy>& copies) {
  if (index_.is_tail(node) && static_cast<int>(index_.tokens(node).size()) == tokens &&
      !index_.is_pinned(node)) {
    index_.take_tail(node, blocks_);
    for (size_t group = 0; group < blocks_.size(); ++group)
      sequence.tables[group].push_part(std::move(blocks_[group]), tokens);
    ++counters_.tails_taken;
    return true;
  }
  if (!make_room_in_all(1, node)) return false;
  index_.touch(node);
  for (int group = 0; group < num_groups(); ++group) {
    BlockRef copy = std::move(pool(group).allocate()).value();
    copies.push_back({group, index_.block_id(node, group), copy.id()});
    sequence.tables[static_cast<size_t>(group)].push_part(std::move(copy), tokens);
    if (index_.is_windowed(group)) index_.touch_window(node, group);
    ++counters_.blocks_copied;
  }
  return true;
}

// ---- room ----

bool KvCache::make_room(int group, int blocks, std::optional<NodeId> keep) {
  const bool windowed = index_.is_windowed(group);
  while (pool(group).free_blocks() < blocks) {
    const std::optional<NodeId> node =
        windowed ? index_.window_victim(group, keep) : index_.victim(keep);
    if (!node.has_value()) return false;
    for (int g = 0; g < num_groups(); ++g) {
      if (!windowed || g == group) store_before_eviction(*node, g);
    }
    if (windowed) {
      index_.evict_window_block(*node, group);
      ++counters_.window_blocks_evicted;
    } else {
      index_.evict(*node);
      ++counters_.blocks_evicted;
    }
  }
  return true;
}

bool KvCache::make_room_in_all(int blocks, std::optional<NodeId> keep) {
  for (int group = 0; group < num_groups(); ++group) {
    if (!make_room(group, blocks, keep)) return false;
  }
  return true;
}

// Blocks that a group lacks before reserve(tokens) is done.
int KvCache::blocks_missing(const SequenceKv& sequence, int group, int64_t tokens) const {
  if (index_.is_windowed(group))
    tokens = std::min(tokens, sequence.num_tokens() + config_.chunk_max);
  return sequence.tables[static_cast<size_t>(group)].blocks_missing(tokens);
}

bool KvCache::can_reserve(const SequenceKv& sequence, int64_t tokens) const {
  for (int group = 0; group < num_groups(); ++group) {
    if (blocks_missing(sequence, group, tokens) > available_blocks(group)) return false;
  }
  return true;
}

bool KvCache::can_grow_to(const SequenceKv& sequence, int64_t tokens) const {
  for (int group = 0; group < num_groups(); ++group) {
    const int64_t held = sequence.tables[static_cast<size_t>(group)].num_blocks();
    const int64_t needed =
        blocks_held_max(lifetime(group), config_.block_tokens, tokens, config_.chunk_max);
    if (needed - held > available_blocks(group)) return false;
  }
  return true;
}

bool KvCache::reserve(SequenceKv& sequence, int64_t tokens) {
  index_.set_time(clock_.now_ns());
  // Asked before evicting: a request that cannot succeed must not empty the cache.
  if (!can_reserve(sequence, tokens)) return false;
  for (int group = 0; group < num_groups(); ++group) {
    if (!make_room(group, blocks_missing(sequence, group, tokens))) return false;
  }
  for (int group = 0; group < num_groups(); ++group) {
    BlockTable& table = sequence.tables[static_cast<size_t>(group)];
    const int missing = blocks_missing(sequence, group, tokens);
    const bool taken =
        table.reserve(pool(group), int64_t{table.end_block() + missing} * config_.block_tokens);
    QUIPU_CHECK(taken, "room for {} blocks was made in group {}", missing, group);
  }
  return true;
}

std::optional<int64_t> KvCache::sequence_tokens_max() const {
  std::optional<int64_t> limit;
  for (int group = 0; group < num_groups(); ++group) {
    const int64_t tokens = int64_t{total_blocks(group)} * config_.block_tokens;
    // One token more would need one block more, unless the window lets go of one.
    if (lifetime(group).is_windowed() &&
        blocks_held_max(lifetime(group), config_.block_tokens, tokens + 1, config_.chunk_max) <=
            total_blocks(group))
      continue;
    limit = std::min(limit.value_or(tokens), tokens);
  }
  return limit;
}

// ---- growing ----

NodeId KvCache::last_node(const SequenceKv& sequence) {
  return sequence.path.empty() ? index_.root(sequence.salt) : sequence.path.back();
}

void KvCache::append(SequenceKv& sequence, std::span<const TokenId> tokens, int64_t count) {
  index_.set_time(clock_.now_ns());
  for (BlockTable& table : sequence.tables) table.append(count);
  if (config_.publish) publish_full_blocks(sequence, tokens);
  slide_windows(sequence);
}

// References to block `block` in every group. SHAPE: result: [groups], to be moved from.
std::span<BlockRef> KvCache::share_all(const SequenceKv& sequence, int block) {
  for (size_t group = 0; group < blocks_.size(); ++group)
    blocks_[group] = sequence.tables[group].share(block);
  return blocks_;
}

void KvCache::publish_full_blocks(SequenceKv& sequence, std::span<const TokenId> tokens) {
  const int block = config_.block_tokens;
  const int full = static_cast<int>(sequence.num_tokens() / block);
  const auto part_of = [&](int i) {
    return tokens.subspan(static_cast<size_t>(i) * static_cast<size_t>(block),
                          static_cast<size_t>(block));
  };
  int i = static_cast<int>(sequence.path.size());
  if (i >= full) return;
  BlockKey key = index_.key_after(index_.key(last_node(sequence)), part_of(i));
  for (; i < full; ++i) {
    const BlockKey next = i + 1 < full ? index_.key_after(key, part_of(i + 1)) : BlockKey();
    const PrefixIndex::Inserted inserted = index_.insert(
        last_node(sequence), part_of(i), key, share_all(sequence, i), sequence.retention);
    key = next;
    for (int group = 0; group < num_groups(); ++group) {
      blocks_[static_cast<size_t>(group)] = BlockRef();
      if (inserted.folded) {
        sequence.tables[static_cast<size_t>(group)].replace(
            i, index_.share_block(inserted.node, group));
      }
      if (index_.is_windowed(group)) index_.acquire_window(inserted.node, group);
    }
    ++(inserted.folded ? counters_.blocks_folded : counters_.blocks_published);
    sequence.path.push_back(inserted.node);
  }
}

void KvCache::slide_windows(SequenceKv& sequence) {
  for (int group = 0; group < num_groups(); ++group) {
    if (!index_.is_windowed(group)) continue;
    const auto [first, last] = sequence.tables[static_cast<size_t>(group)].slide();
    counters_.window_blocks_left += last - first;
    const int closed = std::min(last, static_cast<int>(sequence.path.size()));
    for (int i = first; i < closed; ++i)
      index_.slide_window(sequence.path[static_cast<size_t>(i)], group);
  }
}

void KvCache::release(SequenceKv& sequence, std::span<const TokenId> tokens) {
  index_.set_time(clock_.now_ns());
  const int64_t closed = static_cast<int64_t>(sequence.path.size()) * config_.block_tokens;
  const int64_t rest = sequence.num_tokens() - closed;
  if (config_.publish && rest > 0) {
    index_.insert_tail(
        last_node(sequence), tokens.subspan(static_cast<size_t>(closed), static_cast<size_t>(rest)),
        share_all(sequence, static_cast<int>(sequence.path.size())), sequence.retention);
    for (BlockRef& block : blocks_) block = BlockRef();
  }
  drop_path(sequence, 0);
  for (BlockTable& table : sequence.tables) table.clear();
  index_.forget_root_if_empty(sequence.salt);
}

// ---- going back, and in two directions ----

// The most of `count` tokens after which every group is whole: `count` itself, or a block's end.
int64_t KvCache::resume_point(const SequenceKv& sequence, int64_t count) const {
  const int64_t block = config_.block_tokens;
  WindowScan windows(lifetimes_, config_.block_tokens);
  int64_t best = 0;
  for (int64_t begin = 0; begin < count; begin += block) {
    const auto i = static_cast<size_t>(begin / block);
    for (size_t group = 0; group < lifetimes_.size(); ++group) {
      windows.add(group, sequence.tables[group].has_block(static_cast<int>(i)) ||
                             (i < sequence.path.size() &&
                              index_.has_block(sequence.path[i], static_cast<int>(group))));
    }
    const int64_t end = std::min(begin + block, count);
    if (windows.is_whole(end)) best = end;
  }
  return best;
}

// Takes back from the index what the windows before `count` need and had left behind.
// REQUIRES: resume_point() gave `count`, and the tables end with its block.
void KvCache::restore_windows(SequenceKv& sequence, int64_t count) {
  for (int group = 0; group < num_groups(); ++group) {
    BlockTable& table = sequence.tables[static_cast<size_t>(group)];
    while (table.gap() > 0 && table.first_after_gap() > table.first_needed(count)) {
      const NodeId node = sequence.path[static_cast<size_t>(table.first_after_gap()) - 1];
      table.restore_before(index_.share_block(node, group));
      index_.acquire_window(node, group);
    }
  }
}

void KvCache::truncate(SequenceKv& sequence, int64_t count, std::vector<KvCopy>& copies) {
  QUIPU_CHECK(count >= 0 && count <= sequence.num_tokens(), "truncate to {} of {}", count,
              sequence.num_tokens());
  const int64_t keep = resume_point(sequence, count);
  const int whole = static_cast<int>(keep / config_.block_tokens);
  const int part = static_cast<int>(keep % config_.block_tokens);
  drop_path(sequence, whole + (part > 0 ? 1 : 0));
  restore_windows(sequence, keep);
  const bool cuts_shared_block =
      part > 0 && (whole < static_cast<int>(sequence.path.size()) ||
                   std::any_of(
                       sequence.tables.begin(), sequence.tables.end(),
                       [&](const auto& table) { return table.block_is_shared(whole); }));
  if (!cuts_shared_block) {
    for (BlockTable& table : sequence.tables) table.truncate(keep);
    return;
  }
  if (!make_room_in_all(1, std::nullopt)) {  // the source is held by this sequence, so it stays
    truncate(sequence, int64_t{whole} * config_.block_tokens, copies);
    return;
  }
  copy_into(sequence, whole, part, copies);
}

// Puts copies in the place of the last block, of which `tokens` tokens stay.
void KvCache::copy_into(SequenceKv& sequence, int block, int tokens, std::vector<KvCopy>& copies) {
  for (int group = 0; group < num_groups(); ++group) {
    const BlockTable& table = sequence.tables[static_cast<size_t>(group)];
    blocks_[static_cast<size_t>(group)] = std::move(pool(group).allocate()).value();
    copies.push_back({group, table.block(block), blocks_[static_cast<size_t>(group)].id()});
    ++counters_.blocks_copied;
  }
  drop_path(sequence, block);
  for (size_t group = 0; group < blocks_.size(); ++group)
    sequence.tables[group].push_part(std::move(blocks_[group]), tokens);
}

bool KvCache::fork(const SequenceKv& source, SequenceKv& fork, std::vector<KvCopy>& copies) {
  QUIPU_CHECK(fork.num_blocks() == 0 && fork.path.empty(),
              "fork into a sequence that holds blocks");
  const int whole = static_cast<int>(source.num_tokens() / config_.block_tokens);
  const int part = static_cast<int>(source.num_tokens() % config_.block_tokens);
  if (part > 0 && !make_room_in_all(1, std::nullopt)) return false;
  fork.salt = source.salt;
  fork.retention = source.retention;
  for (const NodeId node : source.path) {
    index_.acquire(node);
    fork.path.push_back(node);
  }
  for (int group = 0; group < num_groups(); ++group) {
    const BlockTable& from = source.tables[static_cast<size_t>(group)];
    BlockTable& to = fork.tables[static_cast<size_t>(group)];
    for (int i = 0; i < whole; ++i) {
      if (!from.has_block(i)) continue;
      if (from.gap() > 0) {
        if (i >= from.first_after_gap()) to.skip_to(from.first_after_gap());
      }
      to.push_whole(from.share(i));
      if (index_.is_windowed(group) && i < static_cast<int>(source.path.size()))
        index_.acquire_window(source.path[static_cast<size_t>(i)], group);
    }
    if (from.gap() > 0) to.skip_to(from.first_after_gap());
    if (part == 0) continue;
    BlockRef copy = std::move(pool(group).allocate()).value();
    copies.push_back({group, from.block(whole), copy.id()});
    to.push_part(std::move(copy), part);
    ++counters_.blocks_copied;
  }
  return true;
}

void KvCache::clear() { index_.clear(); }

KvBlockStates KvCache::block_states(int group) const {
  KvBlockStates states;
  states.free = free_blocks(group);
  states.cached = index_.num_cached_blocks(group);
  states.closed = index_.num_blocks(group) - states.cached;
  states.in_flight = in_flight_[static_cast<size_t>(group)];
  states.open = pool(group).held_blocks() - index_.num_blocks(group) - states.in_flight;
  return states;
}

std::vector<BlockId> KvCache::blocks_in_flight(int group) const {
  std::vector<BlockId> blocks;
  for (const auto& [id, promotion] : promotions_) {
    for (const PromotedBlock& block : promotion.blocks) {
      const BlockRef& ref = block.blocks[static_cast<size_t>(group)];
      if (ref.valid()) blocks.push_back(ref.id());
    }
  }
  return blocks;
}

void KvCache::check_invariants() const {
  index_.check_invariants();
  for (int group = 0; group < num_groups(); ++group) {
    pool(group).check_invariants();
    const KvBlockStates states = block_states(group);
    QUIPU_CHECK(states.open >= 0 && states.closed >= 0, "{} open and {} closed blocks", states.open,
                states.closed);
    QUIPU_CHECK(states.free + states.open + states.closed + states.cached + states.in_flight ==
                    total_blocks(group),
                "block states of group {} do not add up", group);
    const auto in_flight = static_cast<int>(blocks_in_flight(group).size());
    QUIPU_CHECK(in_flight == states.in_flight, "group {}: {} blocks in flight, {} counted", group,
                in_flight, states.in_flight);
  }
}

}  // namespace quipu
