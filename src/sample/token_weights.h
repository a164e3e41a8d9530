// TokenWeights: exp((logit - largest) / temperature) of every token of a vocabulary, as whole
// numbers of 2^-40. Sums of them are exact in any order, so that what a cut keeps and what is drawn
// do not depend on how the sum was taken. A token whose weight is below 2^-40 of the best one's has
// none.
//
// THREADS: thread-compatible. A steady state allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quipu {

// visit(id) for every value from `first` on above `least`, which may rise meanwhile. Large ones are
// rare among a hundred thousand, so groups are asked whether they have one at all: a vector
// compares many at a time.
template <typename Visit>
void for_each_above(std::span<const float> values, size_t first, const float& least,
                    const Visit& visit) {
  constexpr size_t kGroup = 32;
  const auto visit_group = [&](size_t begin, size_t end) {
    for (size_t id = begin; id < end; ++id) {
      if (values[id] > least) visit(id);
    }
  };
  size_t id = first;
  for (; id + kGroup <= values.size(); id += kGroup) {
    const float bound = least;
    int larger = 0;
    for (size_t i = 0; i < kGroup; ++i) larger |= values[id + i] > bound;
    if (larger != 0) visit_group(id, id + kGroup);
  }
  visit_group(id, values.size());
}

// The index of the first of the largest; what is no number comes after all others. REQUIRES: one at
// least.
size_t first_largest(std::span<const float> values);

class TokenWeights {
 public:
  static constexpr uint64_t kOne = uint64_t{1} << 40;  // of the best token

  // One token's weight. REQUIRES: largest is no NaN and above -infinity; temperature > 0.
  static uint64_t weight(float logit, float largest, float temperature);

  // SHAPE: logits: [vocab_size].
  void compute(std::span<const float> logits, float largest, float temperature);
  // Takes the weight of all tokens that `keep(id)` refuses.
  template <typename Keep>
  void keep_only(const Keep& keep) {
    for (size_t id = 0; id < weights_.size(); ++id) weights_[id] = keep(id) ? weights_[id] : 0.0f;
    add_up();
  }

  uint64_t operator[](size_t id) const { return whole(weights_[id]); }
  uint64_t total() const { return total_; }
  // The first token at which the sum of weights by id exceeds `target`. REQUIRES: target < total().
  size_t find(uint64_t target) const;

 private:
  static constexpr size_t kRun = 512;    // tokens of one partial sum
  static uint64_t whole(float weight) {  // by way of a sign: one instruction
    return static_cast<uint64_t>(static_cast<int64_t>(weight));
  }

  void add_up();

  std::vector<float> weights_;  // whole numbers, or with a fraction that does not count
  std::vector<uint64_t> sums_;  // of each run
  uint64_t total_ = 0;
};

}  // namespace quipu
