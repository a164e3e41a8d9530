// Property test: any sequence of operations on the cache and a tier, against a slow, obvious model.
// RapidCheck draws the operations and shrinks what fails to the shortest sequence that still does.
//
// The model: an array that says which token was written into which slot; for every request, the
// tokens it computed; for the tier, nothing but its own promise. What a request believes to be
// computed must be found in its slots, token for token; a look-up must never find more than the
// longest beginning that any request ever computed under that salt.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kv/host_tier.h"
#include "kv/kv_cache.h"
#include "kv/kv_pins.h"

namespace quipu {
namespace {

constexpr int kBlock = 16;

enum class Kind {
  kBegin,
  kAppend,
  kTruncate,
  kFork,
  kRelease,
  kPreempt,
  kPromote,
  kTime,
  kClear,
  kPin,
  kUnpin
};
constexpr int kKinds = 11;
constexpr int64_t kTokensMax = 96;  // of a request
// Whose salts they are: pins of one never touch what the other has.
const std::string kOwners[] = {"someone", "tenant"};

struct Operation {
  Kind kind = Kind::kBegin;
  int pick = 0;    // of the live requests
  int amount = 0;  // of tokens, or of time
  int family = 0;  // of a prompt
};

void showValue(const Operation& o, std::ostream& out) {
  out << "{" << static_cast<int>(o.kind) << ", pick " << o.pick << ", amount " << o.amount
      << ", family " << o.family << "}";
}

rc::Gen<Operation> any_operation() {
  return rc::gen::build<Operation>(
      rc::gen::set(&Operation::kind, rc::gen::map(rc::gen::inRange(0, kKinds + 6),
                                                  [](int kind) {
                                                    return kind < kKinds ? static_cast<Kind>(kind)
                                                                         : Kind::kAppend;
                                                  })),
      rc::gen::set(&Operation::pick, rc::gen::inRange(0, 6)),
      rc::gen::set(&Operation::amount, rc::gen::inRange(1, 90)),
      rc::gen::set(&Operation::family, rc::gen::inRange(0, 6)));
}

// Families share beginnings: family f leaves the common path at token 20 * f.
std::vector<TokenId> prompt_of(int family, int length) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < length; ++i)
    tokens.push_back(i < 20 * (family % 3) ? i : 1000 * (1 + family) + i);
  return tokens;
}

class World {
 public:
  World(std::vector<KvGroupConfig> groups, const std::string& policy, uint64_t tier_bytes)
      : groups_(std::move(groups)),
        tier_(tier_bytes),
        cache_({.groups = groups_,
                .block_tokens = kBlock,
                .fingerprint = "property",
                .policy = policy,
                .chunk_max = 40,
                .tier = tier_bytes > 0 ? &tier_ : nullptr},
               clock_),
        pins_(cache_, kTokensMax, {.share = 0.6, .owners = 2, .pins_per_owner_max = 5}, clock_) {
    for (const KvGroupConfig& group : groups_)
      slots_.emplace_back(static_cast<size_t>(group.total_blocks) * kBlock, -1);
  }

  void apply(const Operation& operation) {
    clock_.advance_ns(1'000'000);
    switch (operation.kind) {
      case Kind::kBegin: begin(operation); break;
      case Kind::kTime: clock_.advance_ns(int64_t{operation.amount} * 1'000'000'000); break;
      case Kind::kClear:
        if (operation.amount % 8 == 0) cache_.clear();
        break;
      case Kind::kPromote: promote(operation); break;
      case Kind::kPin: pin(operation); break;
      case Kind::kUnpin: unpin(operation); break;
      default:
        if (!live_.empty()) on_live(operation, live_[pick(operation)]);
    }
    move_bytes();
    check();
  }

  int pinned() const { return pinned_; }

  void end() {
    for (auto& request : live_) cache_.release(request->kv, request->tokens);
    live_.clear();
    move_bytes();
    cache_.finish_transfers();
    clock_.advance_ns(int64_t{1} << 40);  // those with a time to live end by themselves
    pins_.expire();
    for (const KvPin* pin : pins_.list("")) RC_ASSERT(!pin->expires_ns.has_value());
    while (pins_.num_pins() > 0) RC_ASSERT(pins_.unpin("", pins_.list("").front()->name));
    cache_.clear();
    cache_.check_invariants();
    for (size_t g = 0; g < groups_.size(); ++g)
      RC_ASSERT(cache_.free_blocks(static_cast<int>(g)) == groups_[g].total_blocks);
  }

 private:
  struct Live {
    std::vector<TokenId> tokens;  // the first kv.num_tokens() of them are computed
    SequenceKv kv;
  };

  size_t pick(const Operation& operation) const {
    return static_cast<size_t>(operation.pick) % live_.size();
  }

  void begin(const Operation& operation) {
    if (live_.size() >= 5) return;
    auto request = std::make_unique<Live>();
    request->tokens = prompt_of(operation.family, operation.amount + 1);
    request->kv = cache_.make_sequence();
    request->kv.salt = kOwners[operation.pick == 5 ? 1 : 0];
    if (operation.pick == 4) request->kv.retention.expires_ns = clock_.now_ns() + 2'000'000'000;
    begin_again(*request);
    live_.push_back(std::move(request));
  }

  void begin_again(Live& request) {
    // A sequence that was cut back to nothing has no last token to compute.
    const auto reuse_max = std::max<int64_t>(0, static_cast<int64_t>(request.tokens.size()) - 1);
    const KvExplanation found = cache_.begin(request.kv, request.tokens, reuse_max, copies_);
    RC_ASSERT(found.reused() == request.kv.num_tokens());
    RC_ASSERT(found.reused() <= longest_computed(request));
    RC_ASSERT((found.reason == MissReason::kNone) == (found.reused() == reuse_max));
  }

  // The longest beginning that was ever computed under the request's salt.
  int64_t longest_computed(const Live& request) const {
    int64_t longest = 0;
    const auto known = computed_.find(request.kv.salt);
    if (known == computed_.end()) return 0;
    for (const std::vector<TokenId>& other : known->second) {
      const auto limit = static_cast<ptrdiff_t>(std::min(other.size(), request.tokens.size()));
      longest = std::max<int64_t>(
          longest,
          std::mismatch(other.begin(), other.begin() + limit, request.tokens.begin()).first -
              other.begin());
    }
    return longest;
  }

  void on_live(const Operation& operation, std::unique_ptr<Live>& request) {
    SequenceKv& kv = request->kv;
    const int64_t computed = kv.num_tokens();
    if (operation.kind == Kind::kAppend) {
      append(*request, operation);
    } else if (operation.kind == Kind::kTruncate) {
      const int64_t keep = computed == 0 ? 0 : operation.amount % (computed + 1);
      cache_.truncate(kv, keep, copies_);
      RC_ASSERT(kv.num_tokens() <= keep);
      request->tokens.resize(static_cast<size_t>(keep));
    } else if (operation.kind == Kind::kFork && live_.size() < 5) {
      auto fork = std::make_unique<Live>();
      fork->kv = cache_.make_sequence();
      fork->tokens.assign(request->tokens.begin(),
                          request->tokens.begin() + static_cast<ptrdiff_t>(computed));
      if (cache_.fork(kv, fork->kv, copies_)) {
        RC_ASSERT(fork->kv.num_tokens() == computed);
        live_.push_back(std::move(fork));
      }
    } else if (operation.kind == Kind::kRelease) {
      cache_.release(kv, request->tokens);
      live_.erase(live_.begin() + static_cast<ptrdiff_t>(pick(operation)));
    } else if (operation.kind == Kind::kPreempt) {
      cache_.release(kv, request->tokens);
      begin_again(*request);
    }
  }

  void append(Live& request, const Operation& operation) {
    const int64_t begin = request.kv.num_tokens();
    const int64_t end = std::min(kTokensMax, begin + 1 + operation.amount % 40);
    if (end <= begin) return;
    while (static_cast<int64_t>(request.tokens.size()) < end)
      request.tokens.push_back(static_cast<TokenId>(5000 + 7 * operation.family +
                                                    static_cast<int>(request.tokens.size())));
    if (!cache_.reserve(request.kv, end)) return;
    move_bytes();  // before anything is written
    for (size_t g = 0; g < groups_.size(); ++g) {
      for (int64_t p = begin; p < end; ++p) {
        const BlockTable& table = request.kv.tables[g];
        RC_ASSERT(!table.block_is_shared(static_cast<int>(p / kBlock)));
        slots_[g][static_cast<size_t>(table.slot(p))] = request.tokens[static_cast<size_t>(p)];
      }
    }
    cache_.append(request.kv, request.tokens, end - begin);
    computed_[request.kv.salt].emplace_back(request.tokens.begin(),
                                            request.tokens.begin() + static_cast<ptrdiff_t>(end));
  }

  void promote(const Operation& operation) {
    SequenceKv asking = cache_.make_sequence();
    asking.salt = kOwners[0];
    const std::vector<TokenId> tokens = prompt_of(operation.family, operation.amount + 1);
    const std::span<const TokenId> wanted = std::span(tokens).first(tokens.size() - 1);
    const auto ticket = cache_.promote(asking, tokens, static_cast<int64_t>(wanted.size()));
    if (!ticket.has_value()) return;
    RC_ASSERT(ticket->tokens_after > ticket->tokens_before);
    cache_.check_invariants();
    move_bytes();
    if (operation.pick % 2 == 0) return;  // the completion waits for a later operation
    const int64_t lost = cache_.counters().blocks_lost;
    cache_.finish_transfers();
    RC_ASSERT(!cache_.is_in_flight(ticket->id));
    // A small tier may have let go of them for what was evicted to make room.
    RC_ASSERT(cache_.counters().blocks_lost > lost ||
              cache_.match_length(asking, wanted) >= ticket->tokens_after);
  }

  void pin(const Operation& operation) {
    KvPin pin;
    pin.name = "pin " + std::to_string(++pins_made_);
    pin.owner = kOwners[operation.pick == 5 ? 1 : 0];
    pin.salt = pin.owner;
    const std::vector<std::vector<TokenId>>& known = computed_[pin.salt];
    if (known.empty()) return;
    pin.tokens = known[static_cast<size_t>(operation.amount) % known.size()];
    pin.tokens.resize(1 + static_cast<size_t>(operation.amount * 7) % pin.tokens.size());
    if (operation.pick % 2 == 0) pin.expires_ns = clock_.now_ns() + 20'000'000'000;
    SequenceKv asking = cache_.make_sequence();
    asking.salt = pin.salt;
    const auto wanted = static_cast<int64_t>(pin.tokens.size());
    const bool is_cached = cache_.match_length(asking, pin.tokens) == wanted;
    const KvPins::Outcome outcome = pins_.pin(std::move(pin));
    RC_ASSERT((outcome == KvPins::Outcome::kNotCached) == !is_cached);
    if (outcome == KvPins::Outcome::kPinned) pinned_ += 1;
  }

  void unpin(const Operation& operation) {
    const std::vector<const KvPin*> pins = pins_.list(kOwners[operation.pick % 2]);
    if (pins.empty()) return;
    const std::string name = pins[static_cast<size_t>(operation.amount) % pins.size()]->name;
    RC_ASSERT(!pins_.unpin(kOwners[1 - operation.pick % 2], name));  // it is not theirs
    RC_ASSERT(pins_.unpin(kOwners[operation.pick % 2], name));
  }

  // What the engine does before a step: stores, copies, loads.
  void move_bytes() {
    std::vector<KvStore> stores;
    std::vector<KvLoad> loads;
    cache_.take_transfers(stores, loads);
    for (const KvStore& store : stores)
      tier_.store(store.key, std::as_bytes(block(store.group, store.block)), sizeof(TokenId));
    for (const KvCopy& copy : copies_)
      std::ranges::copy(block(copy.group, copy.from), block(copy.group, copy.to).begin());
    copies_.clear();
    for (const KvLoad& load : loads)
      tier_.load(load.transfer, load.key, std::as_writable_bytes(block(load.group, load.block)));
  }

  std::span<TokenId> block(int group, BlockId id) {
    return std::span(slots_[static_cast<size_t>(group)])
        .subspan(static_cast<size_t>(id.value()) * kBlock, kBlock);
  }

  void check() {
    cache_.check_invariants();
    pins_.expire();
    pins_.check_invariants();
    // Whatever is pinned, a request of full length fits beside it once the others have ended.
    for (size_t g = 0; g < groups_.size(); ++g) {
      const int group = static_cast<int>(g);
      const bool has_budget = pins_.owner_budget(group) > 0;
      RC_ASSERT(!has_budget ||
                pins_.held_blocks(group) + cache_.blocks_held_max_for(group, kTokensMax) <=
                    cache_.total_blocks(group));
    }
    if (live_.empty() && !cache_.has_promotions() && has_budgets()) {
      SequenceKv longest = cache_.make_sequence();
      RC_ASSERT(cache_.can_grow_to(longest, kTokensMax));
    }
    for (const auto& request : live_) {
      for (size_t g = 0; g < groups_.size(); ++g) {
        const BlockTable& table = request->kv.tables[g];
        const int64_t computed = request->kv.num_tokens();
        const int64_t seen = groups_[g].lifetime.first_seen(computed);
        for (int64_t p = 0; p < computed; ++p) {
          if (p >= groups_[g].lifetime.sinks && p < seen) continue;
          RC_ASSERT(slots_[g][static_cast<size_t>(table.slot(p))] ==
                    request->tokens[static_cast<size_t>(p)]);
        }
      }
    }
  }

  bool has_budgets() const {
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (pins_.owner_budget(static_cast<int>(g)) == 0) return false;
    }
    return true;
  }

  FakeClock clock_;
  std::vector<KvGroupConfig> groups_;
  HostTier tier_;
  KvCache cache_;
  KvPins pins_;
  int pins_made_ = 0, pinned_ = 0;
  std::vector<std::vector<TokenId>> slots_;  // SHAPE: [groups][slots]
  std::vector<std::unique_ptr<Live>> live_;
  std::vector<KvCopy> copies_;
  std::map<std::string, std::vector<std::vector<TokenId>>> computed_;  // by salt
};

int pins_kept = 0;  // over all worlds of a property

void check_property(const std::vector<KvGroupConfig>& groups, const std::string& policy,
                    uint64_t tier_bytes) {
  // A fixed seed and a fixed count: the same test every time. RC_PARAMS in the environment
  // overrides both, for a longer search.
  if (std::getenv("RC_PARAMS") == nullptr)
    setenv("RC_PARAMS", "seed=20 max_success=60 max_size=200", 1);
  pins_kept = 0;
  const bool holds = rc::check([&] {
    const auto operations = *rc::gen::container<std::vector<Operation>>(any_operation());
    World world(groups, policy, tier_bytes);
    for (const Operation& operation : operations) world.apply(operation);
    world.end();
    pins_kept += world.pinned();
  });
  EXPECT_TRUE(holds);
  EXPECT_GT(pins_kept, 30) << "hardly anything was pinned";
}

TEST(KvProperty, OneGroupAboveATier) { check_property({{14, {}, 64}}, "reuse", 1 << 20); }
TEST(KvProperty, OneGroupAboveASmallTier) { check_property({{14, {}, 64}}, "lru", 4000); }
TEST(KvProperty, OneGroupAlone) { check_property({{14, {}, 64}}, "cost", 0); }
TEST(KvProperty, AWindowBesideAllAboveATier) {
  check_property({{14, {}, 64}, {12, {.window = 40}, 64}}, "reuse", 1 << 20);
}
TEST(KvProperty, TwoWindowsAboveATier) {
  check_property({{12, {.window = 40}, 64}, {13, {.window = 24, .sinks = 4}, 64}}, "lru", 1 << 20);
}

}  // namespace
}  // namespace quipu
