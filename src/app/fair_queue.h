// FairQueue: requests that wait for a place, and which of them is next.
//
// By priority first (lower numbers), then by tenant, then in order of arrival. Between tenants it
// is the turn of the one that was served least, counted in tokens that were computed for it: one
// tenant with a thousand requests does not make another with one wait for them. A tenant that had
// nothing to ask gets no credit for that time. Waiting makes a request's priority better, by one
// for each kAgeingNs, so that none waits for ever. One that has a deadline waits no longer than
// that. SOURCE: Sheng et al. 2024, "Fairness in serving large language models" (virtual token
// counter); Goyal et al. 1996 (start-time fair queueing) for tenants that come back.
//
// Invariants: an id waits at most once; a tenant is remembered only while it waits or has been
// served more than those that do.
// THREADS: none of its own.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/strong_id.h"

namespace quipu {

class FairQueue {
 public:
  static constexpr int64_t kAgeingNs = 5'000'000'000;

  struct Next {
    RequestId id;
    int priority = 0;  // with what waiting added
  };

  // REQUIRES: the id does not wait; now_ns never decreases from call to call.
  void push(RequestId id, int priority, const std::string& tenant, int64_t now_ns,
            std::optional<int64_t> deadline_ns = std::nullopt);
  // Takes out those whose deadline has passed, and adds them to `late`.
  void take_late(int64_t now_ns, std::vector<RequestId>& late);
  // False when it does not wait.
  bool erase(RequestId id);
  // Takes the next one out; nothing when none waits.
  std::optional<Next> pop(int64_t now_ns);
  // Tokens were computed for a tenant. UNITS: tokens, those that cost more counted more.
  void charge(const std::string& tenant, int64_t tokens);

  size_t size() const { return places_.size(); }
  bool empty() const { return places_.empty(); }
  size_t num_tenants() const { return tenants_.size(); }

 private:
  struct Waiting {
    RequestId id;
    int64_t arrival = 0;
    int64_t since_ns = 0;
  };
  struct Tenant {
    int64_t served = 0;
    std::map<int, std::deque<Waiting>> queues;  // by priority; none is empty
  };
  struct Place {
    std::string tenant;
    int priority = 0;
    std::optional<int64_t> deadline_ns;
  };

  void leave(RequestId id);
  void forget_idle();

  std::map<std::string, Tenant> tenants_;
  std::unordered_map<RequestId, Place> places_;
  std::set<std::pair<int64_t, int64_t>> deadlines_;  // and the ids of those that have one
  int64_t arrivals_ = 0;
  int64_t served_floor_ = 0;  // what the tenant whose turn was last had been served
};

}  // namespace quipu
