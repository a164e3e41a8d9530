#include "tiny_engine.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "app/synth_model.h"
#include "base/random.h"

namespace quipu::exactness {

namespace {

constexpr uint64_t kVocabulary = 321;  // of every tiny shape

// A folder for the models, gone when the process ends.
class ScratchFolder {
 public:
  ScratchFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("quipu-exactness-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

template <typename T>
T value_or_die(Result<T> result) {
  QUIPU_CHECK(result.ok(), "{}", result.status().message());
  return std::move(result).value();
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

bool wants_long_form() {
  const char* wanted = std::getenv("QUIPU_EXACTNESS");
  return wanted != nullptr && std::string_view(wanted) == "full";
}

std::vector<std::string> tiny_shapes() {
  std::vector<std::string> shapes = synth_shape_names();
  std::erase_if(shapes, [](const std::string& name) { return !name.starts_with("tiny-"); });
  QUIPU_CHECK(!shapes.empty(), "synth has no tiny shapes");
  return shapes;
}

std::filesystem::path tiny_model_path(const std::string& shape, DType weights, int64_t context) {
  static const ScratchFolder folder;
  std::filesystem::path path =
      folder.path() / fmt::format("{}-{}-{}.gguf", shape, dtype_name(weights), context);
  if (!std::filesystem::exists(path)) {
    SynthOptions options;
    options.shape = shape;
    options.type = weights;
    options.seed = 11;
    options.context = context;
    const Status status = synth_model(options, path);
    QUIPU_CHECK(status.ok(), "{}", status.message());
  }
  return path;
}

std::unique_ptr<TinyModel> open_tiny_model(const std::string& shape, DType weights, Isa isa,
                                           int threads, int64_t context) {
  auto tiny = std::make_unique<TinyModel>();
  tiny->file = value_or_die(open_model_file(tiny_model_path(shape, weights, context)));
  tiny->backend =
      value_or_die(make_cpu_backend({.threads = threads, .isa = isa, .pin_threads = false}));
  tiny->model = value_or_die(load_model(*tiny->file, *tiny->backend, {.batch_tokens_max = 512}));
  return tiny;
}

TinyEngine::TinyEngine(TinyModel& model, const EngineSettings& settings) {
  clock.advance_ns(1'000'000);
  EngineConfig config;
  config.kv_format = settings.kv_format;
  config.block_tokens = settings.block_tokens;
  config.prefill_chunk_max = settings.chunk;
  config.keep_kv = settings.keep_kv;
  config.draft_tokens_max = settings.draft_tokens_max;
  config.streaming = settings.streaming;
  config.kv_bytes =
      kv_cache_spec_for(model.model->config(), settings.kv_format, settings.block_tokens)
          .block_bytes() *
      static_cast<uint64_t>(settings.blocks);
  engine = value_or_die(Engine::create(*model.model, *model.backend, config, clock));
}

std::vector<TokenId> random_tokens(uint64_t seed, size_t count) {
  Random random(seed);
  std::vector<TokenId> tokens;
  while (tokens.size() < count)
    tokens.push_back(static_cast<TokenId>(random.next_below(kVocabulary)));
  return tokens;
}

Request make_request(std::vector<TokenId> prompt, int64_t max_tokens, LogitsWanted wanted) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.logits_wanted = wanted;
  request.sampling.temperature = 1.0f;
  request.sampling.top_p = 0.95f;
  request.sampling.seed = 42;
  return request;
}

void add_input(const ModelConfig& config, Request& request) {
  if (!config.encoder_decoder.has_value() || !request.input.empty()) return;
  const auto first = static_cast<uint64_t>(request.prompt.front());
  // Long prompts get an input that crosses the run of positions that attention merges, too.
  const size_t tokens = request.prompt.size() > 512 ? 530 : 1 + first % 45;
  request.input = random_tokens(1000 + first, tokens);
}

std::vector<Outcome> run(Engine& engine, std::vector<Request> requests, int stagger) {
  std::vector<Outcome> outcomes(requests.size());
  size_t submitted = 0;
  for (int step = 0; submitted < requests.size() || engine.has_work(); ++step) {
    while (submitted < requests.size() && static_cast<int>(submitted) * stagger <= step) {
      Request& request = requests[submitted];
      Outcome& outcome = outcomes[submitted];
      request.id = RequestId(static_cast<int64_t>(submitted));
      add_input(engine.model().config(), request);
      if (request.logits_wanted != LogitsWanted::kNone) {
        request.on_logits = [&outcome](int64_t position, std::span<const float> logits) {
          outcome.shown_twice |=
              !outcome.logits.try_emplace(position, logits.begin(), logits.end()).second;
        };
      }
      const Status status = engine.submit(std::move(request));
      QUIPU_CHECK(status.ok(), "{}", status.message());
      ++submitted;
    }
    for (const StepEvent& event : engine.step()) {
      Outcome& outcome = outcomes.at(static_cast<size_t>(event.id.value()));
      if (event.token.has_value()) outcome.tokens.push_back(*event.token);
      if (event.finish == FinishReason::kNone) continue;
      ++outcome.finishes;
      outcome.stats = event.stats;
    }
    engine.scheduler().check_invariants();
  }
  return outcomes;
}

Outcome run_alone(TinyModel& model, const EngineSettings& settings, Request request) {
  TinyEngine tiny(model, settings);
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  return std::move(run(*tiny.engine, std::move(requests)).front());
}

std::string difference(const Outcome& actual, const Outcome& expected, size_t common_min) {
  if (actual.finishes != 1) return fmt::format("{} terminal events", actual.finishes);
  if (actual.shown_twice) return "a position's logits were shown twice";
  size_t common = 0;
  for (const auto& [position, logits] : expected.logits) {
    const auto found = actual.logits.find(position);
    if (found == actual.logits.end()) continue;
    ++common;
    if (same_bits(found->second, logits)) continue;
    size_t at = 0;
    while (at < logits.size() && at < found->second.size() &&
           std::memcmp(&logits[at], &found->second[at], sizeof(float)) == 0) {
      ++at;
    }
    return fmt::format("logits at position {}, entry {} of {}: {} instead of {}", position, at,
                       logits.size(), at < found->second.size() ? found->second[at] : 0.0f,
                       at < logits.size() ? logits[at] : 0.0f);
  }
  if (common < common_min) return fmt::format("{} common positions, {} wanted", common, common_min);
  if (actual.tokens != expected.tokens) {
    size_t at = 0;
    while (at < actual.tokens.size() && at < expected.tokens.size() &&
           actual.tokens[at] == expected.tokens[at])
      ++at;
    return fmt::format("output token {} of {} differs", at, expected.tokens.size());
  }
  return "";
}

}  // namespace quipu::exactness
