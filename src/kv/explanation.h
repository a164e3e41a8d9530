// What a look-up in the cache found, where it came from, and why the rest was not there.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/strong_id.h"

namespace quipu {

// Why the token after the last one found was not found.
enum class MissReason : uint8_t {
  kNone,         // all that could be reused was found
  kNeverSeen,    // nobody computed these tokens after these, as far as the cache remembers
  kEvicted,      // they were there, and room was needed
  kExpired,      // they were there, and their time to live was over
  kCleared,      // they were there when the cache was emptied
  kBelowWindow,  // they are there, but not all that a sliding window needs to go on after them
  kOtherSalt,    // they are there, computed under another salt (told by explain() and counters only)
  kNoRoom,       // they are there, but no block was free for a copy
  kTierFailed,   // they were in the tier, which lost or damaged them
  kCacheOff,     // the cache keeps nothing
};
inline constexpr int kMissReasons = 10;

// "never_seen", "evicted", ...
std::string_view miss_reason_name(MissReason reason);

// UNITS: tokens, but where named.
struct KvExplanation {
  int64_t prompt_tokens = 0;
  // Found, by where: blocks shared with others; a finished sequence's last block taken over; part
  // of a block, copied. Their sum is what was reused.
  int64_t shared = 0, tail = 0, copied = 0;
  // Of the shared ones: brought back from the tier for this request; computed by another request
  // while this one waited for them.
  int64_t from_tier = 0, waited_for = 0;
  MissReason reason = MissReason::kNone;
  // Under which reason the counters have it: kOtherSalt where `reason`, which a tenant may see, is
  // kNeverSeen. For the operator.
  MissReason counted_as = MissReason::kNone;

  // What only explain() fills:
  int64_t gone = 0;                     // more that would have been found, had it not gone
  std::optional<int64_t> gone_age_ns;   // UNITS: ns since the first of those was last used
  std::optional<TokenId> cached_token;  // what the cache has where the prompt goes another way

  int64_t reused() const { return shared + tail + copied; }
};

}  // namespace quipu
