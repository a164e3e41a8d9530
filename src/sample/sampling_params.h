// SamplingParams: how the next token is chosen from logits. Immutable part of a request.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"

namespace quipu {

struct SamplingParams {
  float temperature = 0.8f;         // 0: greedy
  int top_k = 0;                    // 0: all
  float top_p = 1.0f;               // SOURCE: Holtzman et al. 2020, nucleus sampling
  float min_p = 0.0f;               // keep tokens with p >= min_p * p_max
  float repetition_penalty = 1.0f;  // SOURCE: Keskar et al. 2019 (CTRL): on prompt and output
  float presence_penalty = 0.0f;    // OpenAI: on output tokens, once
  float frequency_penalty = 0.0f;   // OpenAI: on output tokens, by count
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;

  bool greedy() const { return temperature == 0; }
  // ERRORS: kInvalidArgument naming the parameter, the range and the value.
  Status validate() const;
};

}  // namespace quipu
