// WatchPlaces: who watches the cache, and how many of each tenant may.
//
// Every tenant has the same share of the places, one at least, and none but its own: whoever takes
// all of his keeps nobody else out. All watchers together look for no longer than kWatchersMax of
// them would, so that many tenants cost the engine no more than one. THREADS: the server's thread.
#pragma once

#include <algorithm>
#include <map>
#include <string>

namespace quipu {

class WatchPlaces {
 public:
  static constexpr int kWatchersMax = 16;  // of all tenants, unless there are more tenants

  // UNITS: tenants, of which none stands for one: a server without keys.
  explicit WatchPlaces(int tenants)
      : share_(std::max(1, kWatchersMax / std::max(1, tenants))),
        all_(std::max(kWatchersMax, share_ * tenants)) {}

  // Takes a place; false when the tenant has all of its own.
  [[nodiscard]] bool enter(const std::string& tenant) {
    int& mine = watching_[tenant];
    if (mine == share_) return false;
    ++mine;
    ++count_;
    return true;
  }
  // REQUIRES: enter() gave this tenant a place that it has not left.
  void leave(const std::string& tenant) {
    --count_;
    const auto mine = watching_.find(tenant);
    if (--mine->second == 0) watching_.erase(mine);
  }

  int count() const { return count_; }
  int share() const { return share_; }  // UNITS: places of one tenant
  // How much more rarely each may look than if there were kWatchersMax places.
  double rarer() const { return static_cast<double>(all_) / kWatchersMax; }

 private:
  std::map<std::string, int> watching_;  // by tenant; those that watch
  int share_, all_, count_ = 0;
};

}  // namespace quipu
