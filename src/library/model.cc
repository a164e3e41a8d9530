#include <quipu/model.h>

#include <chrono>
#include <future>

#include <quipu/session.h>

#include "app/chat.h"
#include "app/memory_plan.h"
#include "app/sampling_defaults.h"
#include "library/state.h"

namespace quipu::v1 {

namespace {

using internal::guarded;
using internal::to_error;

quipu::Result<quipu::Isa> isa_from_name(const std::string& name) {
  std::string known;
  for (const quipu::Isa isa : {quipu::Isa::kScalar, quipu::Isa::kAvx2, quipu::Isa::kAvx512}) {
    if (quipu::isa_name(isa) == name) return isa;
    known += (known.empty() ? "" : ", ") + std::string(quipu::isa_name(isa));
  }
  return quipu::make_error(quipu::ErrorCode::kInvalidArgument, "isa: '{}' is not one of {}", name,
                           known);
}

quipu::Status check_range(const char* option, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return quipu::Status::ok_status();
  return quipu::make_error(quipu::ErrorCode::kInvalidArgument,
                           "{} is {}; expected a number from {} to {}", option, value, least, most);
}

quipu::Result<quipu::ModelOptions> engine_options(const ModelOptions& options) {
  if (options.path.empty()) {
    return quipu::make_error(quipu::ErrorCode::kInvalidArgument,
                             "path is empty; give a GGUF file or a Hugging Face directory");
  }
  QUIPU_RETURN_IF_ERROR(check_range("threads", options.threads, 0, 1024));
  QUIPU_RETURN_IF_ERROR(check_range("context_tokens", options.context_tokens, 0, int64_t{1} << 40));
  QUIPU_RETURN_IF_ERROR(check_range("draft_tokens", options.draft_tokens, 0, 64));
  QUIPU_RETURN_IF_ERROR(check_range("running_max", options.running_max, 1, 1024));
  QUIPU_RETURN_IF_ERROR(check_range("waiting_max", options.waiting_max, 0, 1'000'000));
  quipu::ModelOptions result;
  result.model = options.path;
  result.threads = options.threads;
  result.context_length = options.context_tokens;
  result.kv_bytes = options.kv_bytes;
  result.kv_host_bytes = options.kv_host_bytes;
  result.draft_tokens_max = options.draft_tokens;
  result.sequences_max = options.running_max;
  result.contexts_wanted = options.running_max + 1;
  const quipu::Result<quipu::KvFormats> formats = quipu::KvFormats::parse(options.kv_format);
  if (!formats.ok()) return formats.status().with_context("kv_format");
  result.kv_format = *formats;
  if (!options.isa.empty()) {
    QUIPU_ASSIGN_OR_RETURN(result.isa, isa_from_name(options.isa));
  }
  if (!options.weights.empty()) {
    result.weights = quipu::dtype_from_name(options.weights);
    if (!result.weights.has_value()) {
      return quipu::make_error(quipu::ErrorCode::kInvalidArgument,
                               "weights: '{}' is not the name of a weight type, such as q8_0",
                               options.weights);
    }
  }
  return result;
}

ModelInfo info_of(const quipu::LoadedModel& model, bool has_chat_template,
                  const quipu::SamplingParams& sampling) {
  const quipu::ModelConfig& config = model.model->config();
  return {.architecture = config.architecture,
          .name = config.name,
          .vocabulary = config.vocab_size,
          .context_tokens = model.engine->scheduler().token_limit(),
          .has_tokenizer = model.tokenizer != nullptr,
          .has_chat_template = has_chat_template,
          .is_encoder_decoder = config.encoder_decoder.has_value(),
          .sampling = {.temperature = sampling.temperature,
                       .top_k = sampling.top_k,
                       .top_p = sampling.top_p,
                       .min_p = sampling.min_p,
                       .repetition_penalty = sampling.repetition_penalty},
          .load_ms = model.load_ms,
          .note = model.kv_note};
}

quipu::Result<std::shared_ptr<internal::ModelState>> load_state(const ModelOptions& options) {
  QUIPU_ASSIGN_OR_RETURN(const quipu::ModelOptions chosen, engine_options(options));
  QUIPU_ASSIGN_OR_RETURN(std::unique_ptr<quipu::LoadedModel> loaded,
                         quipu::assemble(chosen, options.on_progress));
  quipu::Result<std::optional<quipu::ChatTemplate>> chat_template =
      quipu::chat_template_of(*loaded);
  if (!chat_template.ok()) return chat_template.status().with_context(options.path);
  QUIPU_ASSIGN_OR_RETURN(const quipu::SamplingParams sampling,
                         quipu::choose_sampling(*loaded, {}, quipu::usual_sampling()));
  ModelInfo info = info_of(*loaded, chat_template->has_value(), sampling);
  // Shared: by handles, sessions and generations.
  auto state = std::make_shared<internal::ModelState>(
      std::move(loaded), quipu::EngineThreadConfig{.running_max = options.running_max,
                                                   .waiting_max = options.waiting_max});
  state->info = std::move(info);
  state->chat_template = std::move(*chat_template);
  return state;
}

// What was given, and for the rest what `defaults` has, which has a value for each.
quipu::SamplingParams engine_sampling(const SamplingParams& sampling,
                                      const SamplingParams& defaults) {
  // As the command line chooses it.
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  const auto either = [](const auto& given, const auto& other) {
    return given.has_value() ? *given : *other;
  };
  return {.temperature = either(sampling.temperature, defaults.temperature),
          .top_k = either(sampling.top_k, defaults.top_k),
          .top_p = either(sampling.top_p, defaults.top_p),
          .min_p = either(sampling.min_p, defaults.min_p),
          .repetition_penalty = either(sampling.repetition_penalty, defaults.repetition_penalty),
          .presence_penalty = sampling.presence_penalty,
          .frequency_penalty = sampling.frequency_penalty,
          .logit_bias = sampling.logit_bias,
          .seed = sampling.seed.value_or(static_cast<uint64_t>(now) & 0x7fffffff)};
}

// The cache's counters and blocks. THREADS: engine thread, between two steps.
CacheStatistics statistics_of(const quipu::EngineSnapshot& snapshot) {
  const quipu::EngineStatistics engine = snapshot.engine.statistics();
  CacheStatistics result;
  for (const quipu::KvGroupStatistics& group : engine.groups) {
    result.blocks_free += group.blocks.free;
    result.blocks_open += group.blocks.open;
    result.blocks_closed += group.blocks.closed;
    result.blocks_cached += group.blocks.cached;
    result.blocks_in_flight += group.blocks.in_flight;
  }
  result.block_tokens = snapshot.engine.scheduler().cache().block_tokens();
  result.bytes = snapshot.engine.kv().bytes();
  result.lookups = engine.cache.lookups;
  result.lookups_hit = engine.cache.lookups_hit;
  result.tokens_looked_up = engine.cache.tokens_looked_up;
  result.tokens_reused = engine.cache.tokens_reused;
  result.blocks_evicted = engine.cache.blocks_evicted + engine.cache.window_blocks_evicted;
  result.blocks_stored = engine.cache.blocks_stored;
  result.blocks_restored = engine.cache.blocks_restored;
  result.running = static_cast<int>(snapshot.running.size());
  result.waiting = snapshot.waiting;
  return result;
}

}  // namespace

Model::Model(std::shared_ptr<internal::ModelState> state) : state_(std::move(state)) {}

Result<MemoryPlan> Model::plan(const ModelOptions& options) {
  return guarded([&]() -> Result<MemoryPlan> {
    const quipu::Result<quipu::ModelOptions> chosen = engine_options(options);
    if (!chosen.ok()) return to_error(chosen.status());
    const quipu::Result<quipu::MemoryPlan> plan = quipu::plan_memory(*chosen);
    if (!plan.ok()) return to_error(plan.status());
    return MemoryPlan{.weight_bytes = plan->weight_bytes,
                      .kv_bytes = plan->kv_bytes,
                      .kv_bytes_per_token = plan->kv_bytes_per_token,
                      .kv_bytes_per_sequence = plan->kv_bytes_per_sequence,
                      .context_tokens = plan->context_tokens,
                      .available_bytes = plan->available_bytes,
                      .note = plan->note};
  });
}

Result<Model> Model::load(const ModelOptions& options) {
  return guarded([&]() -> Result<Model> {
    quipu::Result<std::shared_ptr<internal::ModelState>> state = load_state(options);
    if (!state.ok()) return to_error(state.status());
    return Model(std::move(state).value());
  });
}

const ModelInfo& Model::info() const { return state_->info; }

Result<std::vector<TokenId>> Model::encode(std::string_view text, EncodeOptions options) const {
  return guarded([&]() -> Result<std::vector<TokenId>> {
    const quipu::LoadedModel& loaded = *state_->loaded;
    if (const quipu::Status status = quipu::require_tokenizer(loaded); !status.ok())
      return to_error(status);
    quipu::Result<std::vector<TokenId>> ids = loaded.prompt_tokenizer().encode(
        text, {.add_special = options.add_special, .parse_special = options.parse_special});
    if (!ids.ok()) return to_error(ids.status());
    return std::move(ids).value();
  });
}

Result<std::string> Model::decode(std::span<const TokenId> tokens) const {
  return guarded([&]() -> Result<std::string> {
    const quipu::LoadedModel& loaded = *state_->loaded;
    if (const quipu::Status status = quipu::require_tokenizer(loaded); !status.ok())
      return to_error(status);
    return loaded.tokenizer->decode(tokens);
  });
}

Result<std::string> Model::format_chat(std::span<const ChatMessage> messages,
                                       std::string_view tools_json) const {
  return guarded([&]() -> Result<std::string> {
    if (!state_->chat_template.has_value()) {
      return Error{ErrorCode::kUnsupported,
                   state_->loaded->file->path().string() + ": this model has no chat template"};
    }
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const ChatMessage& message : messages)
      list.push_back({{"role", message.role}, {"content", message.content}});
    nlohmann::ordered_json tools = nullptr;
    if (!tools_json.empty()) {
      tools = nlohmann::ordered_json::parse(tools_json, nullptr, /*allow_exceptions=*/false);
      if (!tools.is_array())
        return Error{ErrorCode::kInvalidArgument, "tools_json is not a JSON array"};
    }
    quipu::Result<std::string> text =
        state_->chat_template->render(list, tools, {.add_generation_prompt = true});
    if (!text.ok()) return to_error(text.status());
    return std::move(text).value();
  });
}

Result<Generation> Model::start(const GenerationRequest& request) const {
  return guarded([&]() -> Result<Generation> {
    std::vector<TokenId> prompt = request.prompt_tokens;
    if (prompt.empty()) {
      Result<std::vector<TokenId>> ids = encode(request.prompt);
      if (!ids.ok()) return ids.error();
      prompt = std::move(ids).value();
    }
    const GenerationOptions& options = request.options;
    if (options.top_logprobs.has_value()) {
      const quipu::Status status =
          check_range("top_logprobs", *options.top_logprobs, 0, kTopLogprobsMax);
      if (!status.ok()) return to_error(status);
    }
    quipu::GenerationAsk ask;
    ask.prompt = std::move(prompt);
    ask.params.sampling = engine_sampling(options.sampling, state_->info.sampling);
    ask.params.top_logprobs = options.top_logprobs;
    ask.params.max_tokens = options.max_tokens;
    ask.params.stop = options.stop;
    ask.params.ignore_eos = options.ignore_eos;
    ask.params.cache_salt = request.cache_salt;
    ask.priority = options.priority;
    // Shared: by the reader and the engine's thread, which end at their own time.
    auto state = std::make_shared<internal::GenerationState>();
    state->model = state_;
    state->bell = std::make_shared<internal::Bell>();
    state->outbox =
        std::make_shared<quipu::GenerationOutbox>([bell = state->bell] { bell->ring(); });
    state->result.seed = ask.params.sampling.seed;
    ask.outbox = state->outbox;
    std::vector<quipu::GenerationAsk> asks;
    asks.push_back(std::move(ask));
    const quipu::EngineThread::Submitted submitted = state_->engine.submit(std::move(asks));
    if (submitted.outcome != quipu::EngineThread::Outcome::kAccepted) {
      const quipu::EngineThreadConfig& config = state_->engine.config();
      return Error{ErrorCode::kResourceExhausted,
                   fmt::format("{} requests are in flight, which is all that running_max and "
                               "waiting_max allow; try again when one has ended",
                               config.running_max + config.waiting_max)};
    }
    state->id = submitted.ids.front();
    return Generation(std::move(state));
  });
}

Result<GenerationResult> Model::generate(const GenerationRequest& request,
                                         const TextCallback& on_text) const {
  Result<Generation> started = start(request);
  if (!started.ok()) return started.error();
  while (const std::optional<GenerationPiece> piece = started->next()) {
    if (on_text && !piece->text.empty() && !on_text(piece->text)) started->cancel();
  }
  return started->finish();
}

Result<Session> Model::make_session(std::string cache_salt) const {
  if (state_->info.is_encoder_decoder) {
    return Error{ErrorCode::kUnsupported,
                 "an encoder-decoder model writes an answer to each input; use generate()"};
  }
  return Session(*this, std::move(cache_salt));
}

Result<CacheStatistics> Model::cache_statistics() const {
  return guarded([&]() -> Result<CacheStatistics> {
    std::promise<CacheStatistics> promise;
    std::future<CacheStatistics> future = promise.get_future();
    const bool accepted = state_->engine.inspect([&promise](const quipu::EngineSnapshot& snapshot) {
      promise.set_value(statistics_of(snapshot));
    });
    if (!accepted) {
      return Error{ErrorCode::kResourceExhausted,
                   "too many callers wait for the statistics; try again"};
    }
    return future.get();
  });
}

}  // namespace quipu::v1
