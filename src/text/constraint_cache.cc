#include "text/constraint_cache.h"

#include <chrono>
#include <iterator>

namespace quipu {

namespace {

// The owner's length tells where it ends, whatever bytes it has.
std::string key_of(std::string_view owner, const ConstraintSource& source) {
  return fmt::format("{}:{}{}:{}", owner.size(), owner, static_cast<int>(source.kind), source.text);
}

}  // namespace

Result<std::shared_ptr<const Constraint>> ConstraintCache::get(std::string_view owner,
                                                               const ConstraintSource& source) {
  const std::shared_ptr<Entry> entry = find_or_add(key_of(owner, source));
  const std::lock_guard lock(entry->mutex);
  if (entry->outcome.has_value()) {
    const std::lock_guard counting(mutex_);
    ++counters_.hits;
  } else {
    entry->outcome = compile(source);
    note(*entry);
  }
  return *entry->outcome;
}

std::shared_ptr<ConstraintCache::Entry> ConstraintCache::find_or_add(std::string key) {
  const std::lock_guard lock(mutex_);
  if (const auto found = places_.find(key); found != places_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front();
  }
  entries_.push_front(std::make_shared<Entry>());
  entries_.front()->key = std::move(key);
  places_.emplace(entries_.front()->key, entries_.begin());
  return entries_.front();
}

ConstraintCache::Outcome ConstraintCache::compile(const ConstraintSource& source) {
  const auto begin = std::chrono::steady_clock::now();
  Result<Constraint> compiled = compiler_.compile(source);
  const auto time = std::chrono::steady_clock::now() - begin;
  const std::lock_guard lock(mutex_);
  ++counters_.misses;
  counters_.compile_ns += std::chrono::nanoseconds(time).count();
  if (!compiled.ok()) return compiled.status();
  return std::make_shared<const Constraint>(std::move(*compiled));
}

// Counts what was just compiled and gives up what is over the limits; or forgets it.
void ConstraintCache::note(Entry& entry) {
  const std::lock_guard lock(mutex_);
  const auto found = places_.find(entry.key);
  if (found == places_.end() || found->second->get() != &entry) return;  // given up meanwhile
  const uint64_t bytes =
      entry.outcome->ok() ? entry.key.size() + (**entry.outcome)->memory_bytes() : 0;
  if (bytes == 0 || bytes > limits_.bytes || limits_.entries == 0) return remove(found->second);
  entry.bytes = bytes;
  ++counters_.entries;
  counters_.bytes += bytes;
  const auto is_over = [&] {
    return static_cast<size_t>(counters_.entries) > limits_.entries ||
           counters_.bytes > limits_.bytes;
  };
  for (auto end = entries_.end(); is_over() && end != entries_.begin();) {
    const auto oldest = std::prev(end);
    // Those that are being compiled do not count yet.
    if ((*oldest)->bytes == 0 || oldest->get() == &entry) {
      end = oldest;
      continue;
    }
    ++counters_.evictions;
    remove(oldest);
  }
}

void ConstraintCache::remove(EntryList::iterator place) {
  if ((*place)->bytes > 0) {
    --counters_.entries;
    counters_.bytes -= (*place)->bytes;
  }
  places_.erase((*place)->key);
  entries_.erase(place);
}

ConstraintCacheCounters ConstraintCache::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

}  // namespace quipu
