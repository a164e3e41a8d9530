#include "cli/flags.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <cstdlib>

#include "app/sampling_defaults.h"
#include "base/suggest.h"
#include "base/units.h"

namespace quipu {

namespace {

// Turns a Result's error into CLI11's, whose message the user sees with the flag's name before it.
template <typename T>
T value_or_throw(const std::string& flag, const Result<T>& result) {
  if (!result.ok()) throw CLI::ValidationError(flag, result.status().message());
  return *result;
}

template <typename T>
Result<T> choose(const std::string& text, std::optional<T> found, const std::string& known) {
  if (found.has_value()) return *found;
  return make_error(ErrorCode::kInvalidArgument, "'{}' is not one of {}", text, known);
}

// SOURCE: Xiao et al. 2023 (StreamingLLM): four tokens take up what attention has left over.
constexpr int64_t kDefaultSinks = 4;

std::string known_dtypes() {
  std::string names;
  for (const DTypeTraits& traits : all_dtypes())
    names += (names.empty() ? "" : ", ") + std::string(traits.name);
  return names;
}

std::optional<Isa> isa_from_name(const std::string& name) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa_name(isa) == name) return isa;
  }
  return std::nullopt;
}

}  // namespace

void add_output_flags(CLI::App& command, OutputOptions& output) {
  command.add_flag("--json", output.json, "Print one JSON object at the end instead of text");
  command.add_flag("-q,--quiet", output.quiet, "Print nothing but the result and errors");
}

void add_kv_format_flag(CLI::App& command, std::function<void(KvFormats)> take) {
  command.add_option_function<std::string>(
      "--kv-format,--kv-cache-dtype",
      [take](const std::string& text) {
        take(value_or_throw("--kv-format", KvFormats::parse(text)));
      },
      "Format of keys and values: f32, bf16 (default), int8 or int4; others for some layers: "
      "int4,first=bf16,3-5=int8,last=bf16");
}

void add_model_flags(CLI::App& command, ModelOptions& options) {
  command.add_option("-m,--model", options.model,
                     "GGUF file or Hugging Face directory (default: the built-in model)");
  command.add_option_function<std::string>(
      "--weights",
      [&options](const std::string& text) {
        options.weights =
            value_or_throw("--weights", choose(text, dtype_from_name(text), known_dtypes()));
      },
      "Quantise a Hugging Face directory while loading: q8_0, q4_k, ...");
  command.add_option("-t,--threads", options.threads, "Threads (default: one per core)")
      ->check(CLI::Range(0, 1024));
  command.add_option_function<std::string>(
      "--isa",
      [&options](const std::string& text) {
        options.isa =
            value_or_throw("--isa", choose(text, isa_from_name(text), "scalar, avx2, avx512"));
      },
      "Instruction set of the kernels: scalar, avx2, avx512 (default: the best usable)");
  command
      .add_option("-c,--ctx-size,--max-model-len", options.context_length,
                  "Context in tokens (default: the model's)")
      ->check(CLI::NonNegativeNumber);
  command.add_option_function<std::string>(
      "--kv-memory",
      [&options](const std::string& text) {
        options.kv_bytes = value_or_throw("--kv-memory", parse_bytes(text));
      },
      "Memory for the KV cache, such as 4GiB (default: enough for the context)");
  add_kv_format_flag(command, [&options](KvFormats formats) { options.kv_format = formats; });
  command.add_option_function<std::string>(
      "--kv-host-memory",
      [&options](const std::string& text) {
        options.kv_host_bytes = value_or_throw("--kv-host-memory", parse_bytes(text));
      },
      "Memory for evicted blocks in compact form, such as 4GiB (default: none)");
  command
      .add_option("--kv-policy", options.kv_policy,
                  "Which cached blocks go first: reuse, cost, lru")
      ->check(CLI::IsMember({"reuse", "cost", "lru"}))
      ->capture_default_str();
  command.add_option("--kv-block", options.block_tokens, "Tokens per KV block")
      ->check(CLI::IsMember({16, 32, 64, 128, 256}));
  command.add_option_function<std::string>(
      "--kv-cache",
      [&options](const std::string& text) {
        if (text != "on" && text != "off")
          throw CLI::ValidationError("--kv-cache", "'" + text + "' is not one of on, off");
        options.kv_cache = text == "on";
      },
      "on (default), or off: recompute everything at every step");
  command
      .add_option_function<int64_t>(
          "--kv-window",
          [&options, &command](const int64_t window) {
            options.streaming.window = window;
            if (command.count("--kv-sinks") == 0) options.streaming.sinks = kDefaultSinks;
          },
          "Stream: see only the last N tokens (and the sinks), and go on without end")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--kv-sinks", options.streaming.sinks,
                  "Stream: the first N tokens stay in sight (default: 4, with --kv-window)")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--draft-max,--draft-n", options.draft_tokens_max,
                  "Guess up to N next tokens from the text so far and check them in one step; "
                  "same output; 0: none")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command
      .add_option("--draft-forced", options.forced_tokens_max,
                  "Guess up to N next tokens where a schema or grammar leaves one text, and check "
                  "them in one step; same output; 0: none")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command.add_option("--chunk", options.prefill_chunk, "Prompt tokens computed at a time")
      ->check(CLI::Range(1, 65536));
  command.add_option("--pre-tokenizer", options.pre_tokenizer,
                     "Use this pre-tokenizer instead of the file's");
}

void add_sampling_flags(CLI::App& command, SamplingFlags& flags) {
  SamplingParams& params = flags.params;
  params = usual_sampling();
  flags.temperature =
      command
          .add_option("--temperature,--temp", params.temperature, "0: always the likeliest token")
          ->capture_default_str();
  flags.top_k = command.add_option("--top-k", params.top_k, "Keep the K likeliest tokens; 0: all")
                    ->capture_default_str();
  flags.top_p = command
                    .add_option("--top-p", params.top_p,
                                "Keep the likeliest tokens of this total probability")
                    ->capture_default_str();
  flags.min_p = command
                    .add_option("--min-p", params.min_p,
                                "Keep tokens of at least this share of the best one's")
                    ->capture_default_str();
  flags.repetition_penalty =
      command
          .add_option("--repeat-penalty,--repetition-penalty", params.repetition_penalty,
                      "Weaken tokens that came before")
          ->capture_default_str();
  command
      .add_option("--presence-penalty", params.presence_penalty,
                  "Subtracted once from tokens of the output")
      ->capture_default_str();
  command
      .add_option("--frequency-penalty", params.frequency_penalty,
                  "Subtracted for each time in the output")
      ->capture_default_str();
  command.add_option("--logit-bias", flags.logit_bias, "ID=BIAS, such as 42=-1.5; may be repeated")
      ->allow_extra_args(false);
  command.add_option("-s,--seed", flags.seed, "Seed of the draws (default: a new one each run)");
}

Status SamplingFlags::use_model_defaults(const LoadedModel& model) {
  const auto chosen = [](const CLI::Option* option, auto value) {
    return option->count() > 0 ? std::optional(value) : std::nullopt;
  };
  QUIPU_ASSIGN_OR_RETURN(
      params,
      choose_sampling(model,
                      {.temperature = chosen(temperature, params.temperature),
                       .top_p = chosen(top_p, params.top_p),
                       .min_p = chosen(min_p, params.min_p),
                       .repetition_penalty = chosen(repetition_penalty, params.repetition_penalty),
                       .top_k = chosen(top_k, params.top_k)},
                      params));
  return Status::ok_status();
}

Result<SamplingParams> SamplingFlags::resolve() const {
  SamplingParams resolved = params;
  resolved.seed = seed.value_or(static_cast<uint64_t>(
      std::chrono::system_clock::now().time_since_epoch().count() & 0x7fffffff));
  for (const std::string& item : logit_bias) {
    TokenId id = 0;
    float bias = 0;
    const char* end = item.data() + item.size();
    const auto id_end = std::from_chars(item.data(), end, id);
    const bool has_sign =
        id_end.ec == std::errc() && id_end.ptr < end && (*id_end.ptr == '=' || *id_end.ptr == ':');
    const char* number = has_sign ? id_end.ptr + 1 : end;
    if (number < end && *number == '+') ++number;
    const auto bias_end = std::from_chars(number, end, bias);
    if (!has_sign || bias_end.ec != std::errc() || bias_end.ptr != end) {
      return make_error(ErrorCode::kInvalidArgument,
                        "--logit-bias: '{}' is not ID=BIAS, such as 42=-1.5", item);
    }
    resolved.logit_bias.emplace_back(id, bias);
  }
  QUIPU_RETURN_IF_ERROR(resolved.validate());
  return resolved;
}

std::string environment_name(const std::string& flag) {
  std::string name = "QUIPU_";
  for (const char c : flag)
    name.push_back(c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  return name;
}

void add_environment_names(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty() || option->get_lnames().front() == "help") continue;
    option->envname(environment_name(option->get_lnames().front()));
  }
}

Result<std::filesystem::path> model_path_or_default(const std::filesystem::path& given) {
  if (!given.empty()) return given;
  constexpr const char* kName = "quipu-stories-q8_0.gguf";
  std::error_code error;
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const std::filesystem::path candidates[] = {
      program / ".." / "share" / "quipu" / kName,
      std::filesystem::path(QUIPU_SOURCE_DIR) / "models" / kName,
  };
  for (const std::filesystem::path& candidate : candidates) {
    if (std::filesystem::exists(candidate, error)) return candidate.lexically_normal();
  }
  return make_error(ErrorCode::kNotFound,
                    "no model: give one with -m FILE (a GGUF file or a Hugging Face directory); "
                    "the built-in model {} is not installed beside this program",
                    kName);
}

Result<std::vector<TokenId>> parse_token_ids(const std::string& text) {
  std::vector<TokenId> ids;
  size_t at = 0;
  while (at <= text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    std::string item = text.substr(at, comma - at);
    std::erase_if(item, [](unsigned char c) { return std::isspace(c); });
    TokenId id = 0;
    const auto parsed = std::from_chars(item.data(), item.data() + item.size(), id);
    if (item.empty() || parsed.ec != std::errc() || parsed.ptr != item.data() + item.size() ||
        id < 0) {
      return make_error(ErrorCode::kInvalidArgument, "'{}' is not a token id; write ids as 1,2,3",
                        item);
    }
    ids.push_back(id);
    at = comma + 1;
  }
  return ids;
}

Result<std::unique_ptr<LoadedModel>> load_for_command(ModelOptions options,
                                                      const OutputOptions& output) {
  QUIPU_ASSIGN_OR_RETURN(options.model, model_path_or_default(options.model));
  ProgressLine progress(output, "loading " + options.model.filename().string());
  return assemble(options, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
}

}  // namespace quipu
