// Tokenizers from Hugging Face directories: which files there are, and what each of them knows.
#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "text/sentencepiece_model.h"
#include "text/shim_call.h"
#include "text/tiktoken_ranks.h"
#include "text/tokenizer.h"

namespace quipu {
namespace {

using Json = nlohmann::json;  // an ordered_json of a whole vocabulary takes quadratic time
namespace fs = std::filesystem;

// The largest published tokenizer.json has 35 MB.
constexpr uint64_t kFileBytesMax = uint64_t{256} << 20;
constexpr size_t kTokensMax = size_t{1} << 22;

// An absent file is an empty object; a broken one is an error.
Result<Json> read_json(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  QUIPU_ASSIGN_OR_RETURN(const std::string text, read_file(file, kFileBytesMax));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return make_error(ErrorCode::kCorruptData, "{}: not a JSON object", file.string());
  }
  return json;
}

std::string text_or_empty(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// "bos_token" is a string, or an object with "content", or null.
std::string special_text(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found != object.end() && found->is_object()) return text_or_empty(*found, "content");
  return text_or_empty(object, key);
}

std::optional<bool> optional_bool(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_boolean()) return std::nullopt;
  return found->get<bool>();
}

// One template, or a list of named ones, of which "default" is meant for chat.
std::string template_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return {};
  std::string first;
  for (const Json& entry : value) {
    if (!entry.is_object()) continue;
    const std::string text = text_or_empty(entry, "template");
    if (text_or_empty(entry, "name") == "default") return text;
    if (first.empty()) first = text;
  }
  return first;
}

void append_ids(const Json& object, const char* key, size_t count, std::vector<TokenId>& out) {
  const auto found = object.find(key);
  if (found == object.end()) return;
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list) {
    if (!id.is_number_integer()) continue;
    const auto value = id.get<int64_t>();
    if (value >= 0 && static_cast<size_t>(value) < count) {
      out.push_back(static_cast<TokenId>(value));
    }
  }
}

bool is_number(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return c >= '0' && c <= '9'; });
}

// tokenizer_config.json's added_tokens_decoder: {"151643": {"content": ..., "special": true}}.
Status add_tokens(const Json& config, TokenizerSpec& spec) {
  const auto found = config.find("added_tokens_decoder");
  if (found == config.end() || !found->is_object()) return Status::ok_status();
  for (const auto& [key, token] : found->items()) {
    size_t id = 0;
    if (is_number(key)) std::from_chars(key.data(), key.data() + key.size(), id);
    if (!is_number(key) || id >= kTokensMax || !token.is_object()) {
      return make_error(ErrorCode::kCorruptData,
                        "tokenizer_config.json: added_tokens_decoder has the key '{}'", key);
    }
    while (spec.tokens.size() <= id) {
      spec.tokens.push_back(fmt::format("[unused{}]", spec.tokens.size()));
      spec.token_types.push_back(static_cast<int32_t>(TokenType::kUnused));
      if (!spec.scores.empty()) spec.scores.push_back(0);
    }
    const bool special = optional_bool(token, "special").value_or(false);
    spec.tokens[id] = text_or_empty(token, "content");
    // Unknown stays unknown: that is how the model's own file types it.
    if (spec.token_types[id] != static_cast<int32_t>(TokenType::kUnknown)) {
      spec.token_types[id] =
          static_cast<int32_t>(special ? TokenType::kControl : TokenType::kUserDefined);
    }
  }
  return Status::ok_status();
}

Result<TokenizerSpec> spec_from_gpt2_files(const fs::path& directory) {
  QUIPU_ASSIGN_OR_RETURN(const Json vocabulary, read_json(directory / "vocab.json"));
  QUIPU_ASSIGN_OR_RETURN(const std::string merges,
                         read_file(directory / "merges.txt", kFileBytesMax));
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre = "gpt-2";
  for (const auto& [token, id] : vocabulary.items()) {
    const bool fine = id.is_number_integer() && id.get<int64_t>() >= 0 &&
                      static_cast<size_t>(id.get<int64_t>()) < vocabulary.size();
    if (!fine) {
      return make_error(ErrorCode::kCorruptData, "vocab.json: token '{}' has the id {}", token,
                        id.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    spec.tokens.resize(vocabulary.size());
    spec.tokens[static_cast<size_t>(id.get<int64_t>())] = token;
  }
  spec.token_types.assign(spec.tokens.size(), static_cast<int32_t>(TokenType::kNormal));
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.tokens[i] != "<|endoftext|>") continue;
    spec.token_types[i] = static_cast<int32_t>(TokenType::kControl);
    spec.bos = spec.eos = static_cast<TokenId>(i);
  }
  std::string_view rest = merges;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) spec.merges.emplace_back(line);
  }
  return spec;
}

std::optional<fs::path> tiktoken_file(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".tiktoken") return entry.path();
  }
  return std::nullopt;
}

Result<TokenizerSpec> spec_from_tiktoken(const fs::path& file) {
  // The ranks do not say how text is split; only this file's rule is known.
  if (file.filename() != "qwen.tiktoken") {
    return make_error(ErrorCode::kUnsupported,
                      "{}: only qwen.tiktoken is known; convert to tokenizer.json", file.string());
  }
  QUIPU_ASSIGN_OR_RETURN(const std::string text, read_file(file, kFileBytesMax));
  QUIPU_ASSIGN_OR_RETURN(TokenizerSpec spec, read_tiktoken_ranks(text));
  spec.pre = "qwen2";
  for (const char* name : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    spec.tokens.emplace_back(name);
    spec.token_types.push_back(static_cast<int32_t>(TokenType::kControl));
  }
  const auto count = static_cast<TokenId>(spec.tokens.size());
  spec.eos = count - 3;
  spec.eot = count - 1;
  return spec;
}

}  // namespace

// Collects what the small files beside the vocabulary say, and applies it.
class HfDirectory {
 public:
  explicit HfDirectory(fs::path directory) : directory_(std::move(directory)) {}

  Result<std::unique_ptr<Tokenizer>> load() {
    QUIPU_ASSIGN_OR_RETURN(config_, read_json(directory_ / "tokenizer_config.json"));
    QUIPU_ASSIGN_OR_RETURN(special_map_, read_json(directory_ / "special_tokens_map.json"));
    QUIPU_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, load_vocabulary());
    QUIPU_RETURN_IF_ERROR(apply_specials(*tokenizer));
    QUIPU_RETURN_IF_ERROR(load_template(*tokenizer));
    return tokenizer;
  }

 private:
  bool has(const char* name) const { return fs::exists(directory_ / name); }

  Result<std::unique_ptr<Tokenizer>> load_vocabulary() {
    if (has("tokenizer.json")) return Tokenizer::from_tokenizer_json(directory_ / "tokenizer.json");
    if (has("vocab.json") && has("merges.txt")) return from_spec(spec_from_gpt2_files(directory_));
    for (const char* name : {"tokenizer.model", "spiece.model"}) {
      if (!has(name)) continue;
      QUIPU_ASSIGN_OR_RETURN(const std::string bytes,
                             read_file(directory_ / name, kFileBytesMax));
      return from_spec(read_sentencepiece_model(bytes));
    }
    if (const auto file = tiktoken_file(directory_)) return from_spec(spec_from_tiktoken(*file));
    return make_error(ErrorCode::kNotFound,
                      "{}: no tokenizer.json, vocab.json with merges.txt, or tokenizer.model",
                      directory_.string());
  }

  Result<std::unique_ptr<Tokenizer>> from_spec(Result<TokenizerSpec> made) {
    if (!made.ok()) return made.status().with_context(directory_.string());
    TokenizerSpec spec = std::move(made).value();
    QUIPU_RETURN_IF_ERROR(add_tokens(config_, spec));
    if (const auto add = optional_bool(config_, "add_bos_token")) spec.add_bos = add;
    if (const auto add = optional_bool(config_, "add_eos_token")) spec.add_eos = add;
    auto kept = std::make_unique<TokenizerSpec>(spec);
    QUIPU_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::from_spec(std::move(spec)));
    tokenizer->spec_ = std::move(kept);
    return tokenizer;
  }

  std::optional<TokenId> special_id(const Tokenizer& tokenizer, const char* key) const {
    std::string text = special_text(config_, key);
    if (text.empty()) text = special_text(special_map_, key);
    if (text.empty()) return std::nullopt;
    for (TokenId id = 0; id < static_cast<TokenId>(tokenizer.vocab_size()); ++id) {
      if (tokenizer.is_special(id) && tokenizer.piece(id) == text) return id;
    }
    return tokenizer.find(text);
  }

  Status apply_specials(Tokenizer& tokenizer) const {
    Tokenizer::SpecialIds ids;
    ids.bos = special_id(tokenizer, "bos_token");
    ids.eos = special_id(tokenizer, "eos_token");
    ids.unknown = special_id(tokenizer, "unk_token");
    ids.padding = special_id(tokenizer, "pad_token");
    ids.ends.assign(tokenizer.eos_ids().begin(), tokenizer.eos_ids().end());
    if (ids.eos.has_value()) ids.ends.clear();  // the guess from the vocabulary is not needed
    for (const char* name : {"generation_config.json", "config.json"}) {
      QUIPU_ASSIGN_OR_RETURN(const Json json, read_json(directory_ / name));
      append_ids(json, "eos_token_id", tokenizer.vocab_size(), ids.ends);
    }
    tokenizer.set_specials(ids);
    return Status::ok_status();
  }

  Status load_template(Tokenizer& tokenizer) const {
    if (has("chat_template.jinja")) {
      QUIPU_ASSIGN_OR_RETURN(tokenizer.chat_template_,
                             read_file(directory_ / "chat_template.jinja", kFileBytesMax));
      return Status::ok_status();
    }
    QUIPU_ASSIGN_OR_RETURN(const Json json, read_json(directory_ / "chat_template.json"));
    for (const Json* source : {&json, &config_}) {
      const auto found = source->find("chat_template");
      if (found == source->end()) continue;
      tokenizer.chat_template_ = template_text(*found);
      break;
    }
    return Status::ok_status();
  }

  fs::path directory_;
  Json config_, special_map_;
};

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_hf_directory(const fs::path& directory) {
  return HfDirectory(directory).load();
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_tokenizer_json(const fs::path& file) {
  QUIPU_ASSIGN_OR_RETURN(const std::string json, read_file(file, kFileBytesMax));
  text_internal::initialise();
  QuipuTokenizer* handle = nullptr;
  text_internal::ShimBuffer message;
  const int32_t code =
      quipu_tokenizer_from_json(text_internal::bytes_of(json), &handle, message.out());
  const Status status = text_internal::status_of(code, message, ErrorCode::kCorruptData);
  QUIPU_RETURN_IF_ERROR(status.with_context(file.string()));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(handle));
  tokenizer->from_json_ = true;
  return tokenizer;
}

Result<TokenizerSpec> Tokenizer::to_spec() const {
  TokenizerSpec spec;
  if (spec_) {
    spec = *spec_;
  } else if (!from_json_) {
    return make_error(ErrorCode::kUnsupported,
                      "this tokenizer came from GGUF metadata: copy that metadata");
  } else {
    text_internal::ShimBuffer exported;
    text_internal::ShimBuffer message;
    const int32_t code = quipu_tokenizer_export(handle_, exported.out(), message.out());
    QUIPU_RETURN_IF_ERROR(text_internal::status_of(code, message, ErrorCode::kUnsupported));
    const Json json = Json::parse(exported.view(), nullptr, /*allow_exceptions=*/false);
    spec.model = text_or_empty(json, "model");
    spec.pre = text_or_empty(json, "pre");
    json["tokens"].get_to(spec.tokens);
    json["token_types"].get_to(spec.token_types);
    json["scores"].get_to(spec.scores);
    json["merges"].get_to(spec.merges);
    for (const Json& byte : json["charsmap"]) {
      spec.precompiled_charsmap.push_back(static_cast<char>(byte.get<int>()));
    }
    spec.byte_fallback = optional_bool(json, "byte_fallback").value_or(false);
    spec.add_space_prefix = optional_bool(json, "add_space_prefix");
    spec.remove_extra_whitespaces = optional_bool(json, "remove_extra_whitespaces");
    spec.add_bos = optional_bool(json, "add_bos");
    spec.add_eos = optional_bool(json, "add_eos");
  }
  spec.bos = bos_;
  spec.eos = eos_;
  spec.unknown = unknown_;
  spec.padding = padding_;
  // Other ids that end a turn: GGUF has room for two.
  for (const TokenId id : eos_ids_) {
    if (id == eos_) continue;
    if (!spec.eot.has_value()) {
      spec.eot = id;
    } else if (!spec.eom.has_value() && id != *spec.eot) {
      spec.eom = id;
    }
  }
  spec.chat_template = chat_template_;
  return spec;
}

}  // namespace quipu
