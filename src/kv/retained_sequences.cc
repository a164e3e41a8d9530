#include "kv/retained_sequences.h"

#include <algorithm>

namespace quipu {

namespace {

int64_t common_prefix(std::span<const TokenId> a, std::span<const TokenId> b) {
  const size_t limit = std::min(a.size(), b.size());
  const auto end = std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(limit), b.begin()).first;
  return end - a.begin();
}

}  // namespace

std::optional<RetainedSequences::Match> RetainedSequences::find(std::span<const TokenId> tokens) {
  Entry* best = nullptr;
  int64_t best_tokens = 0;
  for (const auto& entry : entries_) {
    const int64_t matched = std::min(common_prefix(entry->tokens, tokens), entry->table.num_tokens());
    if (matched > best_tokens) {
      best_tokens = matched;
      best = entry.get();
    }
  }
  if (best == nullptr) return std::nullopt;
  best->last_use = ++uses_;
  return Match{&best->table, best_tokens};
}

void RetainedSequences::retain(std::vector<TokenId> tokens, BlockTable table) {
  QUIPU_CHECK(static_cast<int64_t>(tokens.size()) >= table.num_tokens(), "{} tokens for {} cached positions",
              tokens.size(), table.num_tokens());
  tokens.resize(static_cast<size_t>(table.num_tokens()));
  if (tokens.empty()) return;
  for (const auto& entry : entries_) {
    const size_t common = static_cast<size_t>(common_prefix(entry->tokens, tokens));
    if (common == tokens.size()) {  // already there, perhaps longer
      entry->last_use = ++uses_;
      return;
    }
  }
  std::erase_if(entries_, [&](const auto& entry) {
    return static_cast<size_t>(common_prefix(entry->tokens, tokens)) == entry->tokens.size();
  });
  entries_.push_back(std::make_unique<Entry>(std::move(tokens), std::move(table), ++uses_));
}

bool RetainedSequences::evict_one(const BlockTable* except) {
  auto victim = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (&(*it)->table == except) continue;
    if (victim == entries_.end() || (*it)->last_use < (*victim)->last_use) victim = it;
  }
  if (victim == entries_.end()) return false;
  entries_.erase(victim);
  return true;
}

}  // namespace quipu
