// ConstraintCache: compiled constraints that were asked for before, the ones used last. A schema
// that comes with every request of an application is compiled once; each output follows a copy of
// its own.
//
// A constraint is known by its owner, kind and source. Owners share nothing, so that no time that
// one measures tells what another uses; the limits are common to all. Who asks for what another
// thread is just compiling for the same owner waits for it. What does not compile is not kept.
//
// Invariants:
//   1. entries that are compiled count in entries and bytes, exactly while they are in the map;
//   2. both stay within the limits, but for those that are being compiled.
// THREADS: thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "text/constraint.h"

namespace quipu {

struct ConstraintCacheLimits {
  size_t entries = 256;
  uint64_t bytes = uint64_t{64} << 20;  // as Constraint::memory_bytes() counts, and the sources
};

struct ConstraintCacheCounters {
  int64_t hits = 0, misses = 0, evictions = 0;  // a miss compiled, whatever came of it
  int64_t compile_ns = 0;                       // of all misses
  int64_t entries = 0;                          // now
  uint64_t bytes = 0;                           // now
};

class ConstraintCache {
 public:
  // OWNS: nothing; the compiler must outlive it.
  explicit ConstraintCache(ConstraintCompiler& compiler, ConstraintCacheLimits limits = {})
      : compiler_(compiler), limits_(limits) {}

  // ERRORS: as ConstraintCompiler::compile().
  Result<std::shared_ptr<const Constraint>> get(std::string_view owner,
                                                const ConstraintSource& source);

  ConstraintCacheCounters counters() const;

 private:
  using Outcome = Result<std::shared_ptr<const Constraint>>;
  // Shared: with the threads that wait for it, which may outlast its place in the map.
  struct Entry {
    std::string key;
    std::mutex mutex;  // held while it is compiled; taken before the cache's own
    std::optional<Outcome> outcome;
    uint64_t bytes = 0;  // 0: does not count
  };
  using EntryList = std::list<std::shared_ptr<Entry>>;

  std::shared_ptr<Entry> find_or_add(std::string key);
  Outcome compile(const ConstraintSource& source);
  void note(Entry& entry);
  void remove(EntryList::iterator place);

  ConstraintCompiler& compiler_;
  const ConstraintCacheLimits limits_;
  mutable std::mutex mutex_;
  EntryList entries_;                                                 // used last first
  std::unordered_map<std::string_view, EntryList::iterator> places_;  // keys lie in the entries
  ConstraintCacheCounters counters_;
};

}  // namespace quipu
