// Model: a loaded model and its engine. Load it once, use it from many threads.
//
//   any thread:  generate / start / sessions  ->  one engine thread, all requests in one batch
//
// A Model is a handle: copies name the same model. It is unloaded when the last handle, session and
// generation are gone. The same seeded request gives the same bits whatever else runs beside it,
// and whatever the cache holds. THREADS: thread-safe, but for assigning to a handle that another
// thread uses.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <quipu/export.h>
#include <quipu/generation.h>
#include <quipu/result.h>

namespace quipu::v1 {

class Session;

struct ModelOptions {
  std::string path{};               // a GGUF file or a Hugging Face directory
  std::string weights{};            // quantise a directory while loading: "q8_0"; empty: as it is
  int threads = 0;                  // 0: one per core
  std::string isa{};                // "scalar", "avx2", "avx512"; empty: the best usable
  std::int64_t context_tokens = 0;  // 0: the model's
  std::optional<std::uint64_t> kv_bytes{};  // UNITS: bytes; nothing: from context and free memory
  std::uint64_t kv_host_bytes = 0;          // UNITS: bytes, for evicted blocks in compact form
  std::string kv_format = "bf16";  // "f32", "bf16", "int8", "int4", or per layer (docs/CLI.md)
  int draft_tokens = 0;            // guesses checked per step; same output
  int running_max = 16;            // requests computed at once
  int waiting_max = 256;           // requests that may wait for that
  // Called on the loading thread. UNITS: bytes of weights.
  std::function<void(std::uint64_t done, std::uint64_t total)> on_progress{};
};

// What a model would take. UNITS: bytes; tokens.
struct MemoryPlan {
  std::uint64_t weight_bytes = 0;           // as they lie in the file
  std::uint64_t kv_bytes = 0;               // that the cache would get
  std::uint64_t kv_bytes_per_token = 0;     // of a new token in all layers
  std::uint64_t kv_bytes_per_sequence = 0;  // of one sequence that fills the context
  std::int64_t context_tokens = 0;
  std::uint64_t available_bytes = 0;  // that the system could give now
  std::string note{};                 // what the cache would get and why, for people
};

struct ModelInfo {
  std::string architecture{}, name{};
  std::int64_t vocabulary = 0;      // UNITS: tokens
  std::int64_t context_tokens = 0;  // of prompt and output together
  bool has_tokenizer = false, has_chat_template = false;
  bool is_encoder_decoder = false;
  SamplingParams sampling{};  // what holds where a request gives nothing; all but the seed
  double load_ms = 0;
  std::string note{};  // what the cache got and why, for people
};

struct ChatMessage {
  std::string role{};  // "system", "user", "assistant", ...
  std::string content{};
};

struct EncodeOptions {
  bool add_special = true;    // bos before and eos after, as the model was trained
  bool parse_special = true;  // control tokens written out in the text become those tokens
};

// The KV cache between two steps. UNITS: blocks of all stream groups together; tokens; bytes.
struct CacheStatistics {
  std::int64_t blocks_free = 0, blocks_open = 0, blocks_closed = 0, blocks_cached = 0,
               blocks_in_flight = 0;
  int block_tokens = 0;
  std::uint64_t bytes = 0;
  // Since the model was loaded.
  std::int64_t lookups = 0, lookups_hit = 0, tokens_looked_up = 0, tokens_reused = 0;
  std::int64_t blocks_evicted = 0, blocks_stored = 0, blocks_restored = 0;
  int running = 0, waiting = 0;  // requests
};

namespace internal {
struct ModelState;
}

class QUIPU_API Model {
 public:
  // What load() would take, from the file's metadata alone. ERRORS: as load().
  static Result<MemoryPlan> plan(const ModelOptions& options);

  // ERRORS: kNotFound, kIo, kCorruptData, kUnsupported (the file; defaults for sampling that are
  // out of range too); kInvalidArgument (an option, with its name); kResourceExhausted.
  static Result<Model> load(const ModelOptions& options);

  const ModelInfo& info() const;

  // ERRORS (all of these): kUnsupported when the model has no vocabulary.
  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options = {}) const;
  // Special tokens leave nothing.
  Result<std::string> decode(std::span<const TokenId> tokens) const;
  // The prompt of a conversation, with the assistant's opening, in the model's own template.
  // `tools_json`: an array of tools in OpenAI's form, or nothing.
  // ERRORS: kUnsupported without a template; kInvalidArgument when it refuses the conversation, or
  // when tools_json is no array.
  Result<std::string> format_chat(std::span<const ChatMessage> messages,
                                  std::string_view tools_json = {}) const;

  // Begins to compute. ERRORS: kResourceExhausted when running_max + waiting_max requests are in
  // flight; kUnsupported for text without a vocabulary; kInvalidArgument for top_logprobs out of
  // range. What the engine refuses comes from finish().
  Result<Generation> start(const GenerationRequest& request) const;

  // Computes to the end on the engine's thread; `on_text` is called on this one.
  // ERRORS: as start() and Generation::finish().
  Result<GenerationResult> generate(const GenerationRequest& request,
                                    const TextCallback& on_text = {}) const;

  // ERRORS: kUnsupported for an encoder-decoder model, which answers one input at a time.
  Result<Session> make_session(std::string cache_salt = {}) const;

  // Waits for the end of the step that runs. ERRORS: kResourceExhausted when too many ask.
  Result<CacheStatistics> cache_statistics() const;

 private:
  explicit Model(std::shared_ptr<internal::ModelState> state);

  std::shared_ptr<internal::ModelState> state_;  // shared: by handles, sessions and generations
};

}  // namespace quipu::v1
