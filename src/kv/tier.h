// KvTier: a place below the working pool where blocks of keys and values can be kept and found
// again.
//
// Blocks are opaque bytes under a key that says what they are (kv/block_key.h), one per stream
// group. A tier may forget anything at any time, may refuse to take a block, and may fail to give
// one back; whoever uses it computes the block again. It is never the reason for a failed request.
//
// Loads are asynchronous by shape: load() starts one, poll() tells how it ended, and until then the
// destination belongs to the tier. A tier that is quick (host memory) ends a load before load()
// returns, and tells it through poll() all the same. store() takes the bytes before it returns,
// into what the tier keeps or into a bounded queue of its own, so that the block can be written
// again at once. THREADS: engine thread only; a tier with threads of its own hands results over in
// poll().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "kv/block_key.h"

namespace quipu {

// What is kept: one block of one stream group.
struct TierKey {
  BlockKey block;
  int32_t group = 0;
  bool operator==(const TierKey&) const = default;
};

struct TierKeyHash {
  size_t operator()(const TierKey& key) const noexcept;
};

using TransferId = StrongId<struct TransferIdTag, int64_t>;

enum class TierOutcome {
  kDone,     // the bytes are there, and they are those that were stored
  kMissing,  // the tier had let go of them
  kCorrupt,  // they were there and did not match their checksum
  kFailed,   // the tier failed (no connection, an error of the disk)
};

struct TierCompletion {
  TransferId transfer;
  TierOutcome outcome = TierOutcome::kDone;
};

// Totals since the start, but for the first three, which are now. UNITS: blocks or bytes.
struct TierStats {
  int64_t blocks = 0;
  uint64_t bytes = 0;      // that the kept blocks take, in the tier's form and with its bookkeeping
  uint64_t raw_bytes = 0;  // that the kept blocks take in the pool
  int64_t stores = 0, stores_known = 0, stores_refused = 0;
  int64_t loads = 0, loads_missing = 0, loads_corrupt = 0, loads_failed = 0;
  int64_t evictions = 0;
};

class KvTier {
 public:
  virtual ~KvTier() = default;

  virtual std::string_view name() const = 0;
  virtual uint64_t capacity_bytes() const = 0;

  // Which of `keys` are there. SHAPE: found: [keys], 1 or 0. Result: how many.
  virtual int lookup(std::span<const TierKey> keys, std::span<uint8_t> found) const = 0;

  // Keeps a copy of `bytes`. UNITS: element_bytes: of one key or value element, what a tier that
  // compresses may use. False when it did not (too large, full, failing).
  virtual bool store(const TierKey& key, std::span<const std::byte> bytes, int element_bytes) = 0;

  // Starts to write the block's bytes to `into`. OWNS: `into` stays the caller's, untouched by it
  // until poll() names `transfer`. SHAPE: into: as many bytes as were stored.
  virtual void load(TransferId transfer, const TierKey& key, std::span<std::byte> into) = 0;

  // Appends the loads that ended since the last call.
  virtual void poll(std::vector<TierCompletion>& ended) = 0;

  virtual void remove(const TierKey& key) = 0;
  virtual TierStats stats() const = 0;
};

}  // namespace quipu
