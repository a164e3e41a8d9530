#include "kv/kv_cache.h"

#include <algorithm>

namespace quipu {

KvCache::KvCache(const KvCacheConfig& config, const Clock& clock)
    : config_(config),
      clock_(clock),
      pool_(config.total_blocks),
      index_(config.block_tokens, config.fingerprint, make_eviction_policy(config.policy)) {}

int64_t KvCache::match_length(const SequenceKv& sequence, std::span<const TokenId> tokens) {
  if (!config_.publish) return 0;
  return index_.match(index_.root(sequence.salt), tokens).tokens;
}

void KvCache::begin(SequenceKv& sequence, std::span<const TokenId> tokens, int64_t reuse_max,
                    std::vector<BlockCopy>& copies) {
  QUIPU_CHECK(sequence.table.num_blocks() == 0 && sequence.path.empty(),
              "begin of a sequence that holds blocks");
  if (!config_.publish) return;
  const std::span<const TokenId> wanted = tokens.first(
      static_cast<size_t>(std::clamp<int64_t>(reuse_max, 0, static_cast<int64_t>(tokens.size()))));
  const PrefixIndex::Match match = index_.match(index_.root(sequence.salt), wanted);
  ++counters_.lookups;
  counters_.tokens_looked_up += static_cast<int64_t>(tokens.size());
  for (const NodeId node : match.path) {
    index_.touch(node);
    index_.acquire(node);
    sequence.table.push_whole(index_.share_block(node));
    sequence.path.push_back(node);
  }
  counters_.blocks_shared += static_cast<int64_t>(match.path.size());
  if (match.partial.has_value())
    take_partial(sequence, *match.partial, match.partial_tokens, copies);
  counters_.tokens_reused += sequence.table.num_tokens();
  counters_.lookups_hit += sequence.table.num_tokens() > 0;
}

// The first `tokens` tokens of a node: its block, when it is a tail that ends there; else a copy.
// Without a block for the copy they are computed again.
void KvCache::take_partial(SequenceKv& sequence, NodeId node, int tokens,
                           std::vector<BlockCopy>& copies) {
  if (index_.is_tail(node) && static_cast<int>(index_.tokens(node).size()) == tokens &&
      !index_.is_pinned(node)) {
    sequence.table.push_part(index_.take_tail(node), tokens);
    ++counters_.tails_taken;
    return;
  }
  if (!make_room(1, node)) return;
  index_.touch(node);
  BlockRef copy = std::move(pool_.allocate()).value();
  copies.push_back({index_.block_id(node), copy.id()});
  sequence.table.push_part(std::move(copy), tokens);
  ++counters_.blocks_copied;
}

bool KvCache::make_room(int blocks, std::optional<NodeId> keep) {
  while (pool_.free_blocks() < blocks) {
    if (!index_.evict_one(clock_.now_ns(), keep)) return false;
    ++counters_.blocks_evicted;
  }
  return true;
}

bool KvCache::can_reserve(const SequenceKv& sequence, int64_t tokens) const {
  return sequence.table.blocks_missing(tokens) <= available_blocks();
}

bool KvCache::reserve(SequenceKv& sequence, int64_t tokens) {
  const int missing = sequence.table.blocks_missing(tokens);
  // Asked before evicting: a request that cannot succeed must not empty the cache.
  if (missing > available_blocks() || !make_room(missing)) return false;
  return sequence.table.reserve(pool_, tokens);
}

NodeId KvCache::last_node(const SequenceKv& sequence) {
  return sequence.path.empty() ? index_.root(sequence.salt) : sequence.path.back();
}

void KvCache::append(SequenceKv& sequence, std::span<const TokenId> tokens, int64_t count) {
  sequence.table.append(count);
  if (config_.publish) publish_full_blocks(sequence, tokens);
}

void KvCache::publish_full_blocks(SequenceKv& sequence, std::span<const TokenId> tokens) {
  const int block = config_.block_tokens;
  const int full = static_cast<int>(sequence.table.num_tokens() / block);
  for (int i = static_cast<int>(sequence.path.size()); i < full; ++i) {
    const std::span<const TokenId> part = tokens.subspan(
        static_cast<size_t>(i) * static_cast<size_t>(block), static_cast<size_t>(block));
    const PrefixIndex::Inserted inserted =
        index_.insert(last_node(sequence), part, sequence.table.share(i), sequence.retention);
    if (inserted.folded) {
      sequence.table.replace(i, index_.share_block(inserted.node));
      ++counters_.blocks_folded;
    } else {
      ++counters_.blocks_published;
    }
    sequence.path.push_back(inserted.node);
  }
}

void KvCache::release(SequenceKv& sequence, std::span<const TokenId> tokens) {
  const int64_t closed = static_cast<int64_t>(sequence.path.size()) * config_.block_tokens;
  const int64_t rest = sequence.table.num_tokens() - closed;
  if (config_.publish && rest > 0) {
    const NodeId parent = last_node(sequence);
    index_.insert_tail(
        parent, tokens.subspan(static_cast<size_t>(closed), static_cast<size_t>(rest)),
        sequence.table.share(static_cast<int>(sequence.path.size())), sequence.retention);
  }
  sequence.table.clear();
  for (auto node = sequence.path.rbegin(); node != sequence.path.rend(); ++node)
    index_.release(*node);
  sequence.path.clear();
}

bool KvCache::truncate(SequenceKv& sequence, int64_t count, std::vector<BlockCopy>& copies) {
  QUIPU_CHECK(count >= 0 && count <= sequence.table.num_tokens(), "truncate to {} of {}", count,
              sequence.table.num_tokens());
  const int whole = static_cast<int>(count / config_.block_tokens);
  const int part = static_cast<int>(count % config_.block_tokens);
  const bool cuts_closed_block = part > 0 && whole < static_cast<int>(sequence.path.size());
  if (!cuts_closed_block) {
    while (static_cast<int>(sequence.path.size()) > whole) {
      index_.release(sequence.path.back());
      sequence.path.pop_back();
    }
    sequence.table.truncate(count);
    return true;
  }
  if (!make_room(1)) return false;  // the source is held by this sequence, so it stays
  BlockRef copy = std::move(pool_.allocate()).value();
  copies.push_back({sequence.table.block(whole), copy.id()});
  ++counters_.blocks_copied;
  while (static_cast<int>(sequence.path.size()) > whole) {
    index_.release(sequence.path.back());
    sequence.path.pop_back();
  }
  sequence.table.truncate(static_cast<int64_t>(whole) * config_.block_tokens);
  sequence.table.push_part(std::move(copy), part);
  return true;
}

bool KvCache::fork(const SequenceKv& source, SequenceKv& fork, std::vector<BlockCopy>& copies) {
  QUIPU_CHECK(fork.table.num_blocks() == 0 && fork.path.empty(),
              "fork into a sequence that holds blocks");
  const int whole = static_cast<int>(source.table.num_tokens() / config_.block_tokens);
  const int part = static_cast<int>(source.table.num_tokens() % config_.block_tokens);
  if (part > 0 && !make_room(1)) return false;
  fork.salt = source.salt;
  fork.retention = source.retention;
  for (int i = 0; i < whole; ++i) fork.table.push_whole(source.table.share(i));
  for (const NodeId node : source.path) {
    index_.acquire(node);
    fork.path.push_back(node);
  }
  if (part > 0) {
    BlockRef copy = std::move(pool_.allocate()).value();
    copies.push_back({source.table.block(whole), copy.id()});
    fork.table.push_part(std::move(copy), part);
    ++counters_.blocks_copied;
  }
  return true;
}

void KvCache::clear() { index_.clear(); }

KvBlockStates KvCache::block_states() const {
  KvBlockStates states;
  states.free = pool_.free_blocks();
  states.cached = index_.num_cached_blocks();
  states.closed = index_.num_nodes() - states.cached;
  states.open = pool_.held_blocks() - index_.num_nodes();
  return states;
}

void KvCache::check_invariants() const {
  pool_.check_invariants();
  index_.check_invariants();
  const KvBlockStates states = block_states();
  QUIPU_CHECK(states.open >= 0 && states.closed >= 0, "{} open and {} closed blocks", states.open,
              states.closed);
  QUIPU_CHECK(states.free + states.open + states.closed + states.cached == pool_.total_blocks(),
              "block states do not add up");
}

}  // namespace quipu
