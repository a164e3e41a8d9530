// RecentRequests: what the last generations found in the cache, and why not more. A ring of fixed
// size for each tenant, with numbers of its own, so that none tells of what others ask; of the
// texts it keeps two tokens per request. THREADS: the server's.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/access.h"
#include "server/generation_call.h"
#include "server/served_model.h"

namespace quipu {

// What was found of a prompt and why not more: "found", "reason", "gone", "gone_age_ms", and as
// texts "differs" and "cached". `differs`: the first token that was not found.
Json explanation_to_json(const ServedModel& model, const KvExplanation& reuse,
                         std::optional<TokenId> differs);

class RecentRequests {
 public:
  struct Entry {
    std::string id, path, tenant;
    int64_t ended_ms = 0;  // UNITS: ms since 1970
    GenerationCall::Outcome outcome;
    Json explanation;
  };

  // Keeps what became of a call.
  void add(const ServedModel& model, const GenerationSpec& spec, Entry entry);

  // Those that the caller may see of what came after last_number() was `after`, the oldest first.
  Json since(const Caller& caller, int64_t after) const;
  // The newest one of this id that the caller may see.
  std::optional<Json> find(const Caller& caller, std::string_view id) const;
  int64_t last_number() const { return last_number_; }

 private:
  static constexpr size_t kEntriesMax = 64;
  struct Numbered {
    int64_t number = 0;      // among all
    int64_t own_number = 0;  // among the tenant's
    Entry entry;
  };
  std::vector<const Numbered*> seen_by(const Caller& caller) const;

  std::map<std::string, std::deque<Numbered>, std::less<>> entries_;  // by tenant
  int64_t last_number_ = 0;
};

}  // namespace quipu
