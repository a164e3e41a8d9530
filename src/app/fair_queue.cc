#include "app/fair_queue.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace quipu {

namespace {

int aged(int priority, int64_t since_ns, int64_t now_ns) {
  const int64_t better = (now_ns - since_ns) / FairQueue::kAgeingNs;
  return static_cast<int>(std::max<int64_t>(priority - better, INT32_MIN));
}

}  // namespace

void FairQueue::push(RequestId id, int priority, const std::string& tenant, int64_t now_ns,
                     std::optional<int64_t> deadline_ns) {
  const bool is_new = places_.emplace(id, Place{tenant, priority, deadline_ns}).second;
  QUIPU_CHECK(is_new, "request {} waits already", id.value());
  if (deadline_ns.has_value()) deadlines_.emplace(*deadline_ns, id.value());
  Tenant& asks = tenants_[tenant];
  if (asks.queues.empty()) asks.served = std::max(asks.served, served_floor_);
  asks.queues[priority].push_back({id, arrivals_++, now_ns});
}

bool FairQueue::erase(RequestId id) {
  const auto place = places_.find(id);
  if (place == places_.end()) return false;
  Tenant& tenant = tenants_.at(place->second.tenant);
  const auto queue = tenant.queues.find(place->second.priority);
  std::erase_if(queue->second, [&](const Waiting& waiting) { return waiting.id == id; });
  if (queue->second.empty()) tenant.queues.erase(queue);
  leave(id);
  return true;
}

void FairQueue::take_late(int64_t now_ns, std::vector<RequestId>& late) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_ns) {
    late.push_back(RequestId(deadlines_.begin()->second));
    erase(late.back());
  }
}

void FairQueue::leave(RequestId id) {
  const auto place = places_.find(id);
  if (place->second.deadline_ns.has_value())
    deadlines_.erase({*place->second.deadline_ns, id.value()});
  places_.erase(place);
  forget_idle();
}

std::optional<FairQueue::Next> FairQueue::pop(int64_t now_ns) {
  if (places_.empty()) return std::nullopt;
  // Of each tenant and priority the first in line has waited longest.
  std::tuple<int64_t, int64_t, int64_t> best;  // aged priority, served, arrival
  Tenant* turn = nullptr;
  int queue = 0;
  for (auto& [name, tenant] : tenants_) {
    for (const auto& [priority, line] : tenant.queues) {
      const Waiting& first = line.front();
      const std::tuple key(int64_t{aged(priority, first.since_ns, now_ns)}, tenant.served,
                           first.arrival);
      if (turn != nullptr && best <= key) continue;
      best = key;
      turn = &tenant;
      queue = priority;
    }
  }
  const auto line = turn->queues.find(queue);
  const Next next{line->second.front().id, static_cast<int>(std::get<0>(best))};
  line->second.pop_front();
  if (line->second.empty()) turn->queues.erase(line);
  served_floor_ = std::max(served_floor_, turn->served);
  leave(next.id);
  return next;
}

void FairQueue::charge(const std::string& tenant, int64_t tokens) {
  // One that is not remembered has been served no more than those that wait.
  tenants_.try_emplace(tenant, Tenant{served_floor_, {}}).first->second.served += tokens;
}

// A tenant that waits for nothing and would start at the floor anyway need not be remembered.
void FairQueue::forget_idle() {
  std::erase_if(tenants_, [&](const auto& entry) {
    return entry.second.queues.empty() && entry.second.served <= served_floor_;
  });
}

}  // namespace quipu
