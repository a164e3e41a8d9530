#include "server/kv_frame.h"

#include <algorithm>

namespace quipu {

namespace {

constexpr int kCellsMax = 2048;  // of a group; as JSON about 24 bytes each
constexpr int kOwnersMax = 16;
// Siblings differ within a block, so that its text tells them apart.
constexpr size_t kTreeTokensMax = 48;
constexpr int64_t kNsPerTick = 100'000'000;

int blocks_per_cell(int blocks) { return (blocks + kCellsMax - 1) / kCellsMax; }

KvFrame::Sum sum_of(const Histogram& histogram) { return {histogram.sum(), histogram.total()}; }

Json sum_to_json(const KvFrame::Sum& sum) { return Json::array({sum.seconds, sum.count}); }

Json cell_to_json(const KvCell& cell) {
  Json shown = Json::array();
  for (const int32_t blocks : cell.blocks) shown.push_back(blocks);
  for (const int64_t value :
       {int64_t{cell.users}, int64_t{cell.hits}, cell.used_ticks, int64_t{cell.owner}})
    shown.push_back(value);
  return shown;
}

Json states_to_json(const KvBlockStates& states) {
  return Json::array({states.free, states.open, states.closed, states.cached, states.in_flight});
}

Json group_to_json(const KvFrame::Group& group, std::vector<KvCell>* before) {
  Json shown = {{"layers", group.layers},
                {"window", group.window},
                {"block_bytes", group.block_bytes},
                {"total", group.total},
                {"blocks_per_cell", group.blocks_per_cell},
                {"states", states_to_json(group.states)}};
  Json formats = Json::object();
  for (const auto& [name, bytes] : group.format_bytes) formats[name] = bytes;
  shown["format_bytes"] = std::move(formats);
  Json cells = Json::array();
  if (before == nullptr) {
    for (const KvCell& cell : group.cells) cells.push_back(cell_to_json(cell));
    shown["cells"] = std::move(cells);
    return shown;
  }
  for (size_t i = 0; i < group.cells.size(); ++i) {
    if (group.cells[i] == (*before)[i]) continue;
    (*before)[i] = group.cells[i];
    Json change = cell_to_json(group.cells[i]);
    change.insert(change.begin(), i);
    cells.push_back(std::move(change));
  }
  shown["changed"] = std::move(cells);
  return shown;
}

Json counters_to_json(const KvFrame& frame) {
  const KvCounters& counters = frame.statistics.cache;
  const SchedulerCounters& scheduler = frame.statistics.scheduler;
  return {{"lookups", counters.lookups},
          {"lookups_hit", counters.lookups_hit},
          {"tokens_looked_up", counters.tokens_looked_up},
          {"tokens_reused", counters.tokens_reused},
          {"tokens_shared", counters.tokens_shared},
          {"tokens_tail", counters.tokens_tail},
          {"tokens_copied", counters.tokens_copied},
          {"tokens_from_tier", scheduler.tokens_from_tier},
          {"tokens_waited_for", scheduler.tokens_waited_for},
          {"blocks_published", counters.blocks_published},
          {"blocks_folded", counters.blocks_folded},
          {"blocks_copied", counters.blocks_copied},
          {"blocks_evicted", counters.blocks_evicted},
          {"blocks_stored", counters.blocks_stored},
          {"blocks_restored", counters.blocks_restored},
          {"preemptions", scheduler.preemptions_stored + scheduler.preemptions_recomputed},
          {"prompt_tokens", frame.prompt_tokens},
          {"cached_tokens", frame.cached_tokens},
          {"generated_tokens", frame.generated_tokens}};
}

Json tree_to_json(const KvFrame& frame, const ServedModel& model) {
  Json runs = Json::array();
  for (const KvRunView& run : frame.tree) {
    runs.push_back({{"parent", run.parent},
                    {"owner", run.owner},
                    {"position", run.position},
                    {"tokens", run.tokens},
                    {"blocks", run.nodes},
                    {"hits", run.hits},
                    {"readers", run.holders},
                    {"pins", run.pins},
                    {"tail", run.ends_in_tail},
                    {"hidden", run.hidden_children},
                    {"used", run.last_use_ns / kNsPerTick},
                    {"text", model.tokenizer().decode(run.first_tokens, {.skip_special = false})}});
  }
  return runs;
}

Json requests_to_json(const KvFrame& frame) {
  Json running = Json::array();
  for (const EngineSnapshot::Task& task : frame.running) {
    running.push_back({{"place", task.place},
                       {"prompt_tokens", task.prompt_tokens},
                       {"computed_tokens", std::min(task.computed_tokens, task.prompt_tokens)},
                       {"output_tokens", task.output_tokens}});
  }
  return {{"running", std::move(running)}, {"waiting", frame.waiting}};
}

Json tier_to_json(const EngineStatistics& statistics) {
  if (!statistics.tier.has_value()) return nullptr;
  const TierStats& tier = *statistics.tier;
  return {{"blocks", tier.blocks},
          {"bytes", tier.bytes},
          {"raw_bytes", tier.raw_bytes},
          {"capacity_bytes", statistics.tier_capacity_bytes}};
}

}  // namespace

// Tenants by their names, and the salts under one of them by numbers while they are few.
std::string KvFrameMaker::label_of(std::string_view salt) {
  // Salts of a server with keys begin with a line that names the tenant.
  std::string_view tenant, rest = salt;
  if (!caller_.tenant.empty()) {
    tenant = salt.substr(0, std::min(salt.find('\n') + 1, salt.size()));
    rest = salt.substr(tenant.size());
  }
  std::string name = caller_.is_operator() ? tenant_label(tenant) : "";
  if (rest.empty()) return name.empty() ? "no salt" : name;
  if (static_cast<int>(owners_.size()) >= kOwnersMax) return "more salts";
  return fmt::format("{}{}salt {}", name, name.empty() ? "" : ", ", ++salts_named_);
}

// Salts get numbers of their own while they are few; all further ones share one.
KvOwner KvFrameMaker::owner_of(std::string_view salt) {
  if (!is_seen(salt)) return kNoOwner;
  if (const auto known = numbers_.find(salt); known != numbers_.end()) return known->second;
  const std::string label = label_of(salt);
  auto found = std::find_if(owners_.begin(), owners_.end(),
                            [&](const KvOwnerUse& owner) { return owner.label == label; });
  if (found == owners_.end()) found = owners_.insert(owners_.end(), {.label = label});
  const auto owner = static_cast<KvOwner>(found - owners_.begin());
  // Salts that are used once (cache_prompt: false) come without end: those beyond are not kept.
  if (numbers_.size() < kOwnersMax) numbers_.emplace(std::string(salt), owner);
  return owner;
}

void KvFrameMaker::add_group(const EngineSnapshot& snapshot, int group, KvFrame& frame) {
  const KvCache& cache = snapshot.engine.scheduler().cache();
  const KvGroupSpec& spec = snapshot.engine.kv().spec().groups[static_cast<size_t>(group)];
  std::vector<KvBlockView> blocks =
      view_blocks(cache, group, [this](std::string_view salt) { return owner_of(salt); });
  for (const auto& sequence : snapshot.engine.scheduler().running()) {
    const KvOwner owner = owner_of(sequence->kv.salt);
    const BlockTable& table = sequence->kv.tables[static_cast<size_t>(group)];
    for (int column = 0; column < table.num_blocks(); ++column) {
      KvBlockView& block = blocks[static_cast<size_t>(table.column(column).value())];
      if (block.state != KvBlockState::kOpen) continue;
      block.owner = owner;
      block.users = 1;
      block.last_use_ns = frame.now_ticks * kNsPerTick;
    }
  }
  if (!caller_.is_operator()) {
    for (KvBlockView& block : blocks) {
      if (block.owner == kNoOwner) block = KvBlockView();
    }
    std::stable_partition(blocks.begin(), blocks.end(),
                          [](const KvBlockView& block) { return block.owner != kNoOwner; });
  }
  KvFrame::Group shown{.layers = static_cast<int>(spec.layers.size()),
                       .window = spec.lifetime.is_windowed() ? spec.lifetime.window : 0,
                       .block_bytes = spec.block_bytes,
                       .total = static_cast<int>(blocks.size()),
                       .blocks_per_cell = blocks_per_cell(static_cast<int>(blocks.size()))};
  const auto per_cell = static_cast<size_t>(shown.blocks_per_cell);
  shown.cells.resize((blocks.size() + per_cell - 1) / per_cell);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const KvBlockView& block = blocks[i];
    KvCell& cell = shown.cells[i / per_cell];
    ++cell.blocks[static_cast<size_t>(block.state)];
    if (block.owner == kNoOwner) continue;
    if (cell.owner == kNoOwner) cell.owner = block.owner;
    KvOwnerUse& owner = owners_[static_cast<size_t>(block.owner)];
    ++owner.blocks;
    owner.bytes += spec.block_bytes;
    cell.users = std::max(cell.users, block.users);
    cell.hits = std::max(cell.hits, block.hits);
    cell.used_ticks = std::max(cell.used_ticks, block.last_use_ns / kNsPerTick);
  }
  std::array<int, kKvBlockStates> states{};
  for (const KvBlockView& block : blocks) ++states[static_cast<size_t>(block.state)];
  const auto count_of = [&](KvBlockState state) { return states[static_cast<size_t>(state)]; };
  shown.states = {.free = count_of(KvBlockState::kFree),
                  .open = count_of(KvBlockState::kOpen),
                  .closed = count_of(KvBlockState::kClosed),
                  .cached = count_of(KvBlockState::kCached),
                  .in_flight = count_of(KvBlockState::kInFlight)};
  std::map<std::string, uint64_t> format_bytes;
  for (const KvLayerView& layer : spec.layers)
    format_bytes[std::string(kv_format_name(layer.layout.format))] += layer.layout.layer_bytes;
  shown.format_bytes.assign(format_bytes.begin(), format_bytes.end());
  frame.groups.push_back(std::move(shown));
}

KvFrame KvFrameMaker::make(const EngineSnapshot& snapshot, const Clock& clock, bool with_tree) {
  const int64_t begin_ns = clock.now_ns();
  const KvCache& cache = snapshot.engine.scheduler().cache();
  KvFrame frame;
  frame.shows_all = caller_.is_operator();
  frame.now_ticks = begin_ns / kNsPerTick;
  for (KvOwnerUse& owner : owners_) owner.blocks = 0, owner.bytes = 0;
  for (int group = 0; group < cache.num_groups(); ++group) add_group(snapshot, group, frame);
  if (with_tree) {
    frame.has_tree = true;
    const auto owner_of = [this](std::string_view salt) { return this->owner_of(salt); };
    frame.tree = view_tree(cache, owner_of, {.first_tokens_max = kTreeTokensMax});
  }
  frame.owners = owners_;
  frame.statistics = snapshot.engine.statistics();
  for (const EngineSnapshot::Task& task : snapshot.running) {
    if (!caller_.sees(task.tenant)) continue;
    frame.running.push_back(task);
    if (!frame.shows_all) frame.running.back().place = static_cast<int>(frame.running.size()) - 1;
  }
  frame.waiting = snapshot.engine.scheduler().num_waiting() + snapshot.waiting;
  if (!frame.shows_all) {
    const auto own = snapshot.waiting_of.find(caller_.tenant);
    frame.waiting = own == snapshot.waiting_of.end() ? 0 : own->second;
  }
  frame.pool_bytes = snapshot.engine.kv().bytes();
  const ServingMetrics& metrics = snapshot.metrics;
  frame.first_token = sum_of(metrics.time_to_first_token);
  frame.between_tokens = sum_of(metrics.time_between_tokens);
  frame.step = sum_of(metrics.step_time);
  frame.queue = sum_of(metrics.queue_time);
  frame.prompt_tokens = metrics.prompt_tokens_total;
  frame.cached_tokens = metrics.prompt_tokens_cached_total;
  frame.generated_tokens = metrics.generation_tokens_total;
  frame.look_ms = elapsed_ms(begin_ns, clock.now_ns());
  return frame;
}

Json frame_to_json(const KvFrame& frame, const ServedModel& model,
                   std::vector<std::vector<KvCell>>* before) {
  Json groups = Json::array();
  for (size_t i = 0; i < frame.groups.size(); ++i)
    groups.push_back(group_to_json(frame.groups[i], before == nullptr ? nullptr : &(*before)[i]));
  Json owners = Json::array();
  for (const KvOwnerUse& owner : frame.owners) {
    owners.push_back({{"label", owner.label}, {"blocks", owner.blocks}, {"bytes", owner.bytes}});
  }
  Json shown = {{"scope", frame.shows_all ? "all" : "tenant"},
                {"now", frame.now_ticks},
                {"look_ms", frame.look_ms},
                {"groups", std::move(groups)},
                {"owners", std::move(owners)},
                {"pool_bytes", frame.pool_bytes},
                {"policy", frame.statistics.policy},
                {"requests", requests_to_json(frame)}};
  if (frame.shows_all) {
    shown["index_bytes"] = frame.statistics.index_bytes;
    shown["tier"] = tier_to_json(frame.statistics);
    shown["counters"] = counters_to_json(frame);
    shown["latency"] = {{"first_token", sum_to_json(frame.first_token)},
                        {"between_tokens", sum_to_json(frame.between_tokens)},
                        {"step", sum_to_json(frame.step)},
                        {"queue", sum_to_json(frame.queue)}};
  }
  if (frame.has_tree) shown["tree"] = tree_to_json(frame, model);
  return shown;
}

}  // namespace quipu
