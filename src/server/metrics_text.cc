#include "server/metrics_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace quipu {

namespace {

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\' || c == '"') result += '\\';
    if (c == '\n') {
      result += "\\n";
    } else {
      result += c;
    }
  }
  return result;
}

class Writer {
 public:
  explicit Writer(const std::string& model) : label_("model_name=\"" + escaped(model) + "\"") {}

  void begin(const char* name, const char* type, const char* help) {
    text_ += fmt::format("# HELP quipu_{0} {1}\n# TYPE quipu_{0} {2}\n", name, help, type);
  }
  // `more`: further labels, such as `state="free"`.
  template <typename Number>
  void sample(const char* name, Number value, const std::string& more = "") {
    text_ +=
        fmt::format("quipu_{}{{{}{}{}}} {}\n", name, label_, more.empty() ? "" : ",", more, value);
  }
  template <typename Number>
  void counter(const char* name, Number value, const char* help) {
    begin(name, "counter", help);
    sample(name, value);
  }
  template <typename Number>
  void gauge(const char* name, Number value, const char* help) {
    begin(name, "gauge", help);
    sample(name, value);
  }
  void histogram(const char* name, const Histogram& histogram, const char* help) {
    begin(name, "histogram", help);
    const std::string bucket = std::string(name) + "_bucket";
    uint64_t below = 0;
    for (size_t i = 0; i < histogram.bounds().size(); ++i) {
      below += histogram.counts()[i];
      sample(bucket.c_str(), below, fmt::format("le=\"{}\"", histogram.bounds()[i]));
    }
    sample(bucket.c_str(), histogram.total(), "le=\"+Inf\"");
    sample((std::string(name) + "_sum").c_str(), histogram.sum());
    sample((std::string(name) + "_count").c_str(), histogram.total());
  }
  std::string take() { return std::move(text_); }

 private:
  std::string label_, text_;
};

void write_requests(const EngineSnapshot& snapshot, Writer& writer) {
  const ServingMetrics& metrics = snapshot.metrics;
  const Scheduler& scheduler = snapshot.engine.scheduler();
  writer.gauge("num_requests_running", scheduler.num_running(), "Requests that are computed.");
  writer.gauge("num_requests_waiting", scheduler.num_waiting() + snapshot.waiting,
               "Requests that wait for a place or for memory.");
  writer.begin("request_success_total", "counter", "Requests by how they ended.");
  for (const auto& [reason, name] :
       {std::pair(FinishReason::kStop, "stop"), std::pair(FinishReason::kLength, "length"),
        std::pair(FinishReason::kContextFull, "context_full"),
        std::pair(FinishReason::kCancelled, "abort"),
        std::pair(FinishReason::kDeadline, "deadline"),
        std::pair(FinishReason::kConstraint, "constraint")}) {
    writer.sample("request_success_total", metrics.finished[static_cast<size_t>(reason)],
                  fmt::format("finished_reason=\"{}\"", name));
  }
  const uint64_t late = metrics.finished[static_cast<size_t>(FinishReason::kDeadline)];
  writer.begin("request_deadline_exceeded_total", "counter",
               "Requests that ended at their deadline, by how far they had come.");
  writer.sample("request_deadline_exceeded_total", metrics.late_while_waiting, "stage=\"waiting\"");
  writer.sample("request_deadline_exceeded_total", late - metrics.late_while_waiting,
                "stage=\"running\"");
  writer.counter("request_refused_total", metrics.refused, "Requests that the engine refused.");
  writer.counter("num_preemptions_total", metrics.preemptions,
                 "Times a running request gave its memory up, of requests that ended.");
  writer.counter("prompt_tokens_total", metrics.prompt_tokens_total, "Prompt tokens.");
  writer.counter("prompt_tokens_cached_total", metrics.prompt_tokens_cached_total,
                 "Prompt tokens found in the cache.");
  writer.counter("generation_tokens_total", metrics.generation_tokens_total, "Output tokens.");
}

// Where what was found came from, and why the rest was not.
void write_reuse(const KvCounters& counters, Writer& writer) {
  writer.begin("prefix_cache_reused_tokens_total", "counter",
               "Tokens found, by how: in shared blocks, in a last block taken over, by a copy.");
  for (const auto& [source, tokens] :
       {std::pair("shared", counters.tokens_shared), std::pair("tail", counters.tokens_tail),
        std::pair("copied", counters.tokens_copied)}) {
    writer.sample("prefix_cache_reused_tokens_total", tokens, fmt::format("source=\"{}\"", source));
  }
  writer.begin("prefix_cache_misses_total", "counter",
               "Look-ups that did not find all they could use, by reason.");
  for (int i = 1; i < kMissReasons; ++i) {
    const auto reason = static_cast<MissReason>(i);
    writer.sample("prefix_cache_misses_total", counters.misses[static_cast<size_t>(i)],
                  fmt::format("reason=\"{}\"", miss_reason_name(reason)));
  }
}

// The tier below the pools. Without one all of it is zero.
void write_tier(const EngineStatistics& statistics, Writer& writer) {
  const TierStats tier = statistics.tier.value_or(TierStats{});
  writer.gauge("kv_tier_blocks", tier.blocks, "Blocks in the host tier.");
  writer.gauge("kv_tier_bytes", tier.bytes, "Bytes that they take there.");
  writer.gauge("kv_tier_capacity_bytes", statistics.tier_capacity_bytes, "Bytes it may take.");
  writer.counter("kv_tier_blocks_stored_total", statistics.cache.blocks_stored,
                 "Evicted blocks that went to the tier.");
  writer.counter("kv_tier_blocks_restored_total", statistics.cache.blocks_restored,
                 "Blocks that came back.");
  writer.counter("kv_tier_blocks_lost_total", statistics.cache.blocks_lost,
                 "Blocks that were asked for and did not come back.");
  writer.counter("kv_tier_tokens_total", statistics.scheduler.tokens_from_tier,
                 "Prompt tokens found because the tier brought them back.");
  writer.counter("kv_waited_tokens_total", statistics.scheduler.tokens_waited_for,
                 "Prompt tokens that another request computed meanwhile.");
}

void write_cache(const KvCache& cache, Writer& writer) {
  // Groups of layers with windows have blocks of their own; the fullest one limits what fits.
  double usage = 0;
  for (int group = 0; group < cache.num_groups(); ++group) {
    const KvBlockStates states = cache.block_states(group);
    usage = std::max(usage, static_cast<double>(states.open + states.closed) /
                                std::max(1, cache.total_blocks(group)));
  }
  writer.gauge("kv_cache_usage_perc", usage,
               "Share of the KV blocks that running requests hold; 1 is all.");
  writer.begin("kv_blocks", "gauge", "KV blocks by stream group and state.");
  for (int group = 0; group < cache.num_groups(); ++group) {
    const KvBlockStates states = cache.block_states(group);
    for (const auto& [state, count] :
         {std::pair("free", states.free), std::pair("open", states.open),
          std::pair("closed", states.closed), std::pair("cached", states.cached),
          std::pair("in_flight", states.in_flight)})
      writer.sample("kv_blocks", count, fmt::format("group=\"{}\",state=\"{}\"", group, state));
  }
  const KvCounters& counters = cache.counters();
  write_reuse(counters, writer);
  writer.counter("prefix_cache_queries_total", counters.tokens_looked_up,
                 "Tokens looked up in the prefix cache.");
  writer.counter("prefix_cache_hits_total", counters.tokens_reused,
                 "Tokens found in the prefix cache.");
  writer.counter("kv_blocks_published_total", counters.blocks_published,
                 "Full blocks that became findable.");
  writer.counter("kv_blocks_folded_total", counters.blocks_folded,
                 "Blocks computed twice and folded into one.");
  writer.counter("kv_blocks_copied_total", counters.blocks_copied,
                 "Blocks copied because only a part of them was shared.");
  writer.counter("kv_blocks_evicted_total", counters.blocks_evicted, "Cached blocks given up.");
  writer.counter("kv_window_blocks_left_total", counters.window_blocks_left,
                 "Blocks that a sliding window left behind.");
}

// Found prompt tokens by where they lay when they were asked for.
void write_hits_by_tier(const EngineStatistics& statistics, Writer& writer) {
  writer.begin("prefix_cache_hits_by_tier_total", "counter",
               "Tokens found in the prefix cache, by where their blocks were.");
  const int64_t host = statistics.scheduler.tokens_from_tier;
  writer.sample("prefix_cache_hits_by_tier_total", statistics.cache.tokens_reused - host,
                "tier=\"memory\"");
  writer.sample("prefix_cache_hits_by_tier_total", host, "tier=\"host\"");
}

void write_steps(const EngineStatistics& statistics, Writer& writer) {
  writer.counter("steps_total", statistics.steps, "Steps that computed something.");
  writer.begin("step_phase_seconds_total", "counter", "Where the time of steps went.");
  const StepPhases& phases = statistics.phases;
  for (const auto& [phase, ns] :
       {std::pair("plan", phases.plan_ns), std::pair("transfer", phases.transfer_ns),
        std::pair("forward", phases.forward_ns), std::pair("sample", phases.sample_ns),
        std::pair("commit", phases.commit_ns)}) {
    writer.sample("step_phase_seconds_total", static_cast<double>(ns) * 1e-9,
                  fmt::format("phase=\"{}\"", phase));
  }
  writer.counter("spec_decode_num_draft_tokens_total", statistics.scheduler.drafts_proposed,
                 "Guessed tokens that were checked.");
  writer.counter("spec_decode_num_accepted_tokens_total", statistics.scheduler.drafts_accepted,
                 "Guessed tokens that came true.");
  writer.counter("spec_decode_num_forced_draft_tokens_total", statistics.scheduler.forced_proposed,
                 "Of the guessed tokens, those that a constraint left alone.");
  writer.counter("spec_decode_num_forced_accepted_tokens_total",
                 statistics.scheduler.forced_accepted, "Of these, those that came true.");
}

void write_pins(const EngineSnapshot& snapshot, Writer& writer) {
  const KvPins& pins = snapshot.pins;
  const KvCache& cache = snapshot.engine.scheduler().cache();
  writer.gauge("kv_pins", pins.num_pins(), "Prefixes that are pinned.");
  writer.begin("kv_pinned_blocks", "gauge", "Blocks that pins keep.");
  for (int group = 0; group < cache.num_groups(); ++group)
    writer.sample("kv_pinned_blocks", pins.held_blocks(group), fmt::format("group=\"{}\"", group));
  writer.begin("kv_pin_budget_blocks", "gauge", "Blocks that one tenant's pins may keep.");
  for (int group = 0; group < cache.num_groups(); ++group)
    writer.sample("kv_pin_budget_blocks", pins.owner_budget(group),
                  fmt::format("group=\"{}\"", group));
  writer.begin("kv_pin_events_total", "counter", "What became of pins.");
  const KvPinCounters& counters = pins.counters();
  for (const auto& [event, count] :
       {std::pair("created", counters.created), std::pair("unpinned", counters.unpinned),
        std::pair("expired", counters.expired), std::pair("refused", counters.refused)})
    writer.sample("kv_pin_events_total", count, fmt::format("event=\"{}\"", event));
}

void write_constraints(const ConstraintCacheCounters& counters, Writer& writer) {
  writer.gauge("constraints_kept", counters.entries, "Compiled forms of outputs that are kept.");
  writer.gauge("constraints_kept_bytes", counters.bytes, "Bytes that they take.");
  writer.counter("constraint_hits_total", counters.hits,
                 "Requests whose form of the output was compiled already.");
  writer.counter("constraint_compiles_total", counters.misses, "Forms of outputs compiled.");
  writer.counter("constraint_evictions_total", counters.evictions, "Compiled forms given up.");
  writer.counter("constraint_compile_seconds_total",
                 static_cast<double>(counters.compile_ns) * 1e-9, "Time spent compiling them.");
}

}  // namespace

std::string metrics_text(const EngineSnapshot& snapshot, const ConstraintCacheCounters& constraints,
                         const std::string& model_name) {
  Writer writer(model_name);
  const ServingMetrics& metrics = snapshot.metrics;
  write_requests(snapshot, writer);
  write_cache(snapshot.engine.scheduler().cache(), writer);
  const EngineStatistics statistics = snapshot.engine.statistics();
  write_tier(statistics, writer);
  write_hits_by_tier(statistics, writer);
  write_pins(snapshot, writer);
  write_steps(statistics, writer);
  write_constraints(constraints, writer);
  writer.histogram("time_to_first_token_seconds", metrics.time_to_first_token,
                   "From arrival to the first output token.");
  writer.histogram("inter_token_latency_seconds", metrics.time_between_tokens,
                   "Between two output tokens of a request.");
  writer.histogram("e2e_request_latency_seconds", metrics.request_time, "From arrival to the end.");
  writer.histogram("request_queue_time_seconds", metrics.queue_time,
                   "From arrival to the first step.");
  writer.histogram("step_time_seconds", metrics.step_time, "One step of the engine.");
  writer.histogram("step_sequences", metrics.batch_sequences, "Requests in the engine per step.");
  writer.histogram("request_prompt_tokens", metrics.prompt_tokens, "Prompt tokens of a request.");
  writer.histogram("request_generation_tokens", metrics.generation_tokens,
                   "Output tokens of a request.");
  return writer.take();
}

}  // namespace quipu
