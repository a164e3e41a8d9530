#include "kv/eviction_policy.h"

#include <algorithm>
#include <cmath>

#include "kv/reuse_policy.h"

namespace quipu {

namespace {

class LruPolicy : public EvictionPolicy {
 public:
  std::string_view name() const override { return "lru"; }
  double worth(const NodeUse& use) override { return static_cast<double>(use.sequence_number); }
};

class CostPolicy : public EvictionPolicy {
 public:
  explicit CostPolicy(double attention_tokens) : attention_tokens_(attention_tokens) {}

  std::string_view name() const override { return "cost"; }
  double worth(const NodeUse& use) override {
    const double recompute_cost = 1 + static_cast<double>(use.position) / attention_tokens_;
    return age_ + recompute_cost * (1 + std::log2(1.0 + use.hits));
  }
  // What is used from now on starts above everything that was let go.
  void evicted(double worth) override { age_ = std::max(age_, worth); }

 private:
  double attention_tokens_;
  double age_ = 0;
};

// Depth counts for little: weighting it as the arithmetic has it (30,000 tokens for an 8B model)
// kept long prompts that never came back, and lost hits on the conversation trace at every cache
// size.
constexpr double kDefaultAttentionTokens = 1 << 20;

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru_policy() { return std::make_unique<LruPolicy>(); }

std::unique_ptr<EvictionPolicy> make_cost_policy(double attention_tokens) {
  return std::make_unique<CostPolicy>(attention_tokens);
}

std::unique_ptr<EvictionPolicy> make_eviction_policy(std::string_view name) {
  if (name == "lru") return make_lru_policy();
  if (name == "cost") return make_cost_policy(kDefaultAttentionTokens);
  if (name == "reuse") return std::make_unique<ReusePolicy>();
  return nullptr;
}

}  // namespace quipu
