#include "app/simulate.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <queue>
#include <unordered_map>

#include "engine/scheduler.h"

namespace quipu {

namespace {

// Token ids that stand for a trace block: kTraceBlockTokens ids of their own.
std::vector<TokenId> prompt_tokens(const TraceRequest& request,
                                   std::unordered_map<int64_t, TokenId>& block_ids) {
  std::vector<TokenId> tokens;
  tokens.reserve(static_cast<size_t>(request.input_tokens));
  for (const int64_t hash : request.hash_ids) {
    const auto [known, is_new] =
        block_ids.try_emplace(hash, static_cast<TokenId>(block_ids.size()));
    for (int64_t i = 0;
         i < kTraceBlockTokens && static_cast<int64_t>(tokens.size()) < request.input_tokens; ++i) {
      // Neighbouring ids: what matters is that blocks differ and positions in a block differ.
      tokens.push_back(static_cast<TokenId>((known->second * kTraceBlockTokens + i) & 0x3fffffff));
    }
  }
  return tokens;
}

double step_seconds(const MachineModel& machine, const StepPlan& plan) {
  double tokens = 0, attention_flops = 0, attention_bytes = 0;
  for (const ScheduledSequence& scheduled : plan.sequences) {
    const double count = scheduled.num_tokens;
    const double depth = static_cast<double>(scheduled.first_position) + count / 2;
    tokens += count;
    attention_flops += count * depth * machine.attention_flops_per_token_position;
    attention_bytes +=
        (static_cast<double>(scheduled.first_position) + count) * machine.kv_bytes_per_token;
  }
  const double linear = std::max(machine.weight_bytes / machine.bandwidth,
                                 2 * machine.parameters * tokens / machine.flops);
  return linear + std::max(attention_flops / machine.flops, attention_bytes / machine.bandwidth);
}

double percentile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  const auto rank = static_cast<size_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(rank), values.end());
  return values[rank];
}

class Simulation {
 public:
  Simulation(const std::vector<TraceRequest>& trace, const SimulationOptions& options)
      : trace_(trace),
        options_(options),
        scheduler_({.batch_tokens_max = options.batch_tokens_max,
                    .prefill_chunk_max = options.batch_tokens_max,
                    .sequences_max = options.sequences_max,
                    .context_length = std::numeric_limits<int32_t>::max()},
                   {.groups = {{static_cast<int>(options.kv_tokens / options.block_tokens), {}}},
                    .block_tokens = options.block_tokens,
                    .policy = options.policy},
                   clock_) {
    result_.policy = options.policy;
    result_.kv_tokens = options.kv_tokens;
  }

  SimulationResult run() {
    const auto begin = std::chrono::steady_clock::now();
    while (next_ < trace_.size() || scheduler_.has_work()) {
      submit_arrived();
      if (scheduler_.has_work()) {
        step();
      } else if (next_ < trace_.size()) {
        clock_.advance_ns(std::max<int64_t>(0, arrival_ns(next_) - clock_.now_ns()));
      }
    }
    result_.wall_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return finish();
  }

 private:
  int64_t arrival_ns(size_t index) const {
    return static_cast<int64_t>(static_cast<double>(trace_[index].arrival_ms) * 1e6 /
                                options_.speed);
  }

  void submit_arrived() {
    for (; next_ < trace_.size() && arrival_ns(next_) <= clock_.now_ns(); ++next_) {
      const TraceRequest& asked = trace_[next_];
      Request request;
      request.id = RequestId(static_cast<int64_t>(next_));
      request.prompt = prompt_tokens(asked, block_ids_);
      request.sampling.temperature = 0;
      request.max_tokens = asked.output_tokens;
      if (scheduler_.submit(std::move(request)).ok()) {
        ++result_.requests;
        result_.input_tokens += asked.input_tokens;
      } else {
        ++result_.refused;
      }
    }
  }

  void step() {
    scheduler_.plan(plan_);
    const double seconds = step_seconds(options_.machine, plan_);
    clock_.advance_ns(static_cast<int64_t>(seconds * 1e9));
    measure_waste(seconds);
    // Outputs never meet in the cache: each token is new, outside the range of the prompts' ids.
    next_tokens_.clear();
    for (size_t i = 0; i < plan_.sequences.size(); ++i)
      next_tokens_.push_back(0x40000000 + (output_count_++ & 0x3fffffff));
    events_.clear();
    scheduler_.commit(plan_, next_tokens_, events_);
    for (const StepEvent& event : events_) {
      result_.output_tokens += event.token.has_value();
      if (event.finish == FinishReason::kNone) continue;
      result_.reused_tokens += event.stats.cached_tokens;
      result_.preemptions += event.stats.preemptions;
      const int64_t arrived = arrival_ns(static_cast<size_t>(event.id.value()));
      ttft_s_.push_back(
          static_cast<double>(event.stats.first_token_ns.value_or(event.stats.finished_ns) -
                              arrived) *
          1e-9);
    }
  }

  void measure_waste(double seconds) {
    int64_t held = 0, used = 0;
    for (const ScheduledSequence& scheduled : plan_.sequences) {
      held += scheduled.sequence->kv.tables.front().capacity();
      used += scheduled.sequence->num_tokens();
    }
    held_token_s_ += seconds * static_cast<double>(held);
    used_token_s_ += seconds * static_cast<double>(used);
  }

  SimulationResult finish() {
    if (held_token_s_ > 0) result_.waste = 1 - used_token_s_ / held_token_s_;
    const KvCounters& counters = scheduler_.cache().counters();
    result_.computed_tokens = result_.input_tokens - result_.reused_tokens;
    result_.evicted_blocks = counters.blocks_evicted;
    result_.folded_blocks = counters.blocks_folded;
    result_.simulated_s = static_cast<double>(clock_.now_ns()) * 1e-9;
    result_.ttft_p50_s = percentile(ttft_s_, 0.5);
    result_.ttft_p90_s = percentile(ttft_s_, 0.9);
    result_.ttft_p99_s = percentile(ttft_s_, 0.99);
    if (result_.simulated_s > 0) {
      result_.output_tokens_per_s =
          static_cast<double>(result_.output_tokens) / result_.simulated_s;
    }
    return result_;
  }

  const std::vector<TraceRequest>& trace_;
  const SimulationOptions& options_;
  FakeClock clock_;
  Scheduler scheduler_;
  StepPlan plan_;
  std::vector<TokenId> next_tokens_;
  std::vector<StepEvent> events_;
  std::unordered_map<int64_t, TokenId> block_ids_;
  std::vector<double> ttft_s_;
  size_t next_ = 0;
  int32_t output_count_ = 0;
  double held_token_s_ = 0, used_token_s_ = 0;
  SimulationResult result_;
};

// For each access of the trace, in order, when the same block is used next (or never).
std::vector<int64_t> next_uses(const std::vector<TraceRequest>& trace) {
  std::vector<int64_t> blocks;
  for (const TraceRequest& request : trace)
    blocks.insert(blocks.end(), request.hash_ids.begin(), request.hash_ids.end());
  std::vector<int64_t> next(blocks.size(), std::numeric_limits<int64_t>::max());
  std::unordered_map<int64_t, int64_t> seen;
  for (size_t i = blocks.size(); i-- > 0;) {
    const auto found = seen.find(blocks[i]);
    if (found != seen.end()) next[i] = found->second;
    seen[blocks[i]] = static_cast<int64_t>(i);
  }
  return next;
}

}  // namespace

Result<SimulationResult> simulate(const std::vector<TraceRequest>& trace,
                                  const SimulationOptions& options) {
  if (make_eviction_policy(options.policy) == nullptr) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'{}' is not an eviction policy; known: {}", options.policy,
                      kEvictionPolicyNames);
  }
  if (options.kv_tokens < options.block_tokens ||
      options.kv_tokens / options.block_tokens > (int64_t{1} << 30)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a cache of {} tokens; expected at least a block of {}", options.kv_tokens,
                      options.block_tokens);
  }
  if (!(options.speed > 0))
    return make_error(ErrorCode::kInvalidArgument, "speed is {}; expected more than 0",
                      options.speed);
  return Simulation(trace, options).run();
}

SimulationResult simulate_optimum(const std::vector<TraceRequest>& trace, int64_t kv_tokens) {
  SimulationResult result;
  result.policy = "optimum";
  result.kv_tokens = kv_tokens;
  const auto capacity = static_cast<size_t>(kv_tokens / kTraceBlockTokens);
  const std::vector<int64_t> next = next_uses(trace);
  std::unordered_map<int64_t, int64_t> cached;  // block -> its next use
  std::priority_queue<std::pair<int64_t, int64_t>>
      farthest;  // (next use, block), stale entries too
  size_t access = 0;
  for (const TraceRequest& request : trace) {
    ++result.requests;
    result.input_tokens += request.input_tokens;
    bool leading = true;
    for (size_t i = 0; i < request.hash_ids.size(); ++i, ++access) {
      const int64_t block = request.hash_ids[i];
      const auto found = cached.find(block);
      const int64_t start = static_cast<int64_t>(i) * kTraceBlockTokens;
      leading = leading && found != cached.end();
      if (leading) {
        // The last token of a prompt is always computed.
        result.reused_tokens +=
            std::max<int64_t>(0, std::min(kTraceBlockTokens, request.input_tokens - 1 - start));
      }
      if (capacity == 0) continue;
      cached[block] = next[access];
      farthest.push({next[access], block});
      while (cached.size() > capacity) {
        const auto [use, victim] = farthest.top();
        farthest.pop();
        const auto entry = cached.find(victim);
        if (entry == cached.end() || entry->second != use) continue;  // used again since
        cached.erase(entry);
        ++result.evicted_blocks;
      }
    }
  }
  result.computed_tokens = result.input_tokens - result.reused_tokens;
  return result;
}

}  // namespace quipu
