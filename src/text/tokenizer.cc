#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "text/shim_call.h"

namespace quipu {

using text_internal::bytes_of;
using text_internal::ShimBuffer;
using text_internal::status_of;

namespace {

// Control tokens that end a turn in published chat formats, whatever the metadata says.
constexpr std::array<std::string_view, 16> kTurnEnds = {
    "<|im_end|>",      "<|eot_id|>",        "<|end|>",  "<|end_of_turn|>",
    "<end_of_turn>",   "<|endoftext|>",     "<EOT>",    "<|end_of_text|>",
    "<|eom_id|>",      "<|return|>",        "<|call|>", "<｜end▁of▁sentence｜>",
    "<end_of_utterance>", "<|eot|>",        "[EOT]",    "<turn|>"};

std::optional<TokenId> optional_id(int64_t id) {
  return id < 0 ? std::nullopt : std::optional<TokenId>(static_cast<TokenId>(id));
}

int32_t flag(std::optional<bool> value) { return value.has_value() ? (*value ? 1 : 0) : -1; }
int64_t id_or_minus_one(std::optional<TokenId> id) { return id.value_or(-1); }

// Strings laid end to end, as the C interface takes them.
class PackedStrings {
 public:
  explicit PackedStrings(const std::vector<std::string>& strings) {
    size_t total = 0;
    for (const std::string& string : strings) total += string.size();
    bytes_.reserve(total);
    ends_.reserve(strings.size());
    for (const std::string& string : strings) {
      bytes_ += string;
      ends_.push_back(bytes_.size());
    }
  }
  QuipuStrings view() const {
    return {reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size(), ends_.data(),
            ends_.size()};
  }

 private:
  std::string bytes_;
  std::vector<uint64_t> ends_;
};

Status check_ids(const TokenizerSpec& spec) {
  const auto count = static_cast<int64_t>(spec.tokens.size());
  const std::pair<const char*, std::optional<TokenId>> ids[] = {
      {"bos", spec.bos}, {"eos", spec.eos},         {"eot", spec.eot},
      {"eom", spec.eom}, {"unknown", spec.unknown}, {"padding", spec.padding}};
  for (const auto& [name, id] : ids) {
    if (id.has_value() && (*id < 0 || *id >= count)) {
      return make_error(ErrorCode::kCorruptData,
                        "tokenizer.ggml.{}_token_id is {}, but there are {} tokens", name, *id,
                        count);
    }
  }
  return Status::ok_status();
}

Result<QuipuTokenizer*> make_handle(const TokenizerSpec& spec) {
  QUIPU_RETURN_IF_ERROR(check_ids(spec));
  const PackedStrings tokens(spec.tokens);
  const PackedStrings merges(spec.merges);
  QuipuSpec raw = {};
  raw.model = bytes_of(spec.model);
  raw.pre = bytes_of(spec.pre);
  raw.tokens = tokens.view();
  raw.merges = merges.view();
  raw.scores = spec.scores.data();
  raw.scores_count = spec.scores.size();
  raw.kinds = spec.token_types.data();
  raw.kinds_count = spec.token_types.size();
  raw.charsmap = bytes_of(spec.precompiled_charsmap);
  raw.strip_after = spec.strip_after.data();
  raw.strip_after_count = spec.strip_after.size();
  raw.bos = id_or_minus_one(spec.bos);
  raw.eos = id_or_minus_one(spec.eos);
  raw.unknown = id_or_minus_one(spec.unknown);
  raw.add_bos = flag(spec.add_bos);
  raw.add_eos = flag(spec.add_eos);
  raw.add_space_prefix = flag(spec.add_space_prefix);
  raw.remove_extra_whitespaces = flag(spec.remove_extra_whitespaces);
  raw.byte_fallback = spec.byte_fallback ? 1 : 0;
  text_internal::initialise();
  QuipuTokenizer* handle = nullptr;
  ShimBuffer message;
  const int32_t code = quipu_tokenizer_from_spec(&raw, &handle, message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kCorruptData));
  return handle;
}

}  // namespace

void strip_after_specials_of_phi3(TokenizerSpec& spec) {
  const auto has = [&](std::string_view token) {
    return std::find(spec.tokens.begin(), spec.tokens.end(), token) != spec.tokens.end();
  };
  if (spec.model != "llama" || !has("<|assistant|>") || !has("<|end|>")) return;
  for (size_t id = 0; id < spec.token_types.size() && id < spec.tokens.size(); ++id) {
    const auto type = static_cast<TokenType>(spec.token_types[id]);
    if (type != TokenType::kControl && type != TokenType::kUserDefined) continue;
    const std::string& text = spec.tokens[id];
    if (text == "<unk>" || text == "<s>" || text == "<|endoftext|>") continue;
    spec.strip_after.push_back(static_cast<TokenId>(id));
  }
}

Tokenizer::Tokenizer(QuipuTokenizer* handle) : handle_(handle) {
  const QuipuTokenizerInfo info = quipu_tokenizer_info(handle);
  vocab_size_ = info.vocabulary_size;
  bos_ = optional_id(info.bos);
  eos_ = optional_id(info.eos);
  unknown_ = optional_id(info.unknown);
  adds_bos_ = info.add_bos != 0;
  strips_leading_space_ = info.strips_leading_space != 0;
}

Tokenizer::~Tokenizer() { quipu_tokenizer_free(handle_); }

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_spec(TokenizerSpec spec) {
  QUIPU_ASSIGN_OR_RETURN(QuipuTokenizer * handle, make_handle(spec));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(handle));
  tokenizer->chat_template_ = std::move(spec.chat_template);
  SpecialIds ids{spec.bos, spec.eos, spec.unknown, spec.padding, {}};
  for (const auto& id : {spec.eot, spec.eom}) {
    if (id.has_value()) ids.ends.push_back(*id);
  }
  tokenizer->set_specials(ids);
  return tokenizer;
}

void Tokenizer::set_specials(const SpecialIds& ids) {
  if (ids.bos.has_value()) bos_ = ids.bos;
  if (ids.eos.has_value()) eos_ = ids.eos;
  if (ids.unknown.has_value()) unknown_ = ids.unknown;
  if (ids.padding.has_value()) padding_ = ids.padding;
  eos_ids_ = ids.ends;
  if (eos_.has_value()) eos_ids_.push_back(*eos_);
  std::vector<TokenId> named;
  std::optional<TokenId> end, returns, calls;
  for (TokenId id = 0; id < static_cast<TokenId>(vocab_size_); ++id) {
    if (token_type(id) != TokenType::kControl) continue;
    const std::string_view text = piece(id);
    if (std::find(kTurnEnds.begin(), kTurnEnds.end(), text) == kTurnEnds.end()) continue;
    named.push_back(id);
    if (text == "<|end|>") end = id;
    if (text == "<|return|>") returns = id;
    if (text == "<|call|>") calls = id;
  }
  // In the format that has <|return|> and <|call|>, <|end|> closes a message, not the turn.
  if (returns && calls && end) named.erase(std::find(named.begin(), named.end(), *end));
  eos_ids_.insert(eos_ids_.end(), named.begin(), named.end());
  std::sort(eos_ids_.begin(), eos_ids_.end());
  eos_ids_.erase(std::unique(eos_ids_.begin(), eos_ids_.end()), eos_ids_.end());
  const auto text_of = [this](std::optional<TokenId> id) {
    return id.has_value() ? std::string(piece(*id)) : std::string();
  };
  special_texts_ = {text_of(bos_), text_of(eos_), text_of(unknown_), text_of(padding_)};
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  QuipuIds ids = {nullptr, 0, 0};
  ShimBuffer message;
  const int32_t code =
      quipu_tokenizer_encode(handle_, bytes_of(text), options.add_special ? 1 : 0,
                             options.parse_special ? 1 : 0, &ids, message.out());
  QUIPU_RETURN_IF_ERROR(status_of(code, message, ErrorCode::kInternal));
  std::vector<TokenId> out(ids.data, ids.data + ids.size);
  quipu_ids_free(ids);
  return out;
}

std::string Tokenizer::decode_bytes(std::span<const TokenId> ids, DecodeOptions options) const {
  std::string text;
  for (const TokenId id : ids) {
    if (options.skip_special && is_special(id)) continue;
    text += piece(id);
  }
  if (strips_leading_space_ && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, DecodeOptions options) const {
  return repair_utf8(decode_bytes(ids, options));
}

std::string_view Tokenizer::piece(TokenId id) const {
  if (id < 0) return {};
  QuipuBytes bytes = {nullptr, 0};
  quipu_tokenizer_piece(handle_, static_cast<uint32_t>(id), &bytes);
  return {reinterpret_cast<const char*>(bytes.data), bytes.size};
}

std::optional<TokenType> Tokenizer::token_type(TokenId id) const {
  if (id < 0) return std::nullopt;
  QuipuBytes bytes = {nullptr, 0};
  const int32_t kind = quipu_tokenizer_piece(handle_, static_cast<uint32_t>(id), &bytes);
  if (kind < QUIPU_TOKEN_NORMAL || kind > QUIPU_TOKEN_BYTE) return std::nullopt;
  return static_cast<TokenType>(kind);
}

bool Tokenizer::is_special(TokenId id) const {
  const std::optional<TokenType> type = token_type(id);
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

std::optional<TokenId> Tokenizer::find(std::string_view text) const {
  return optional_id(quipu_tokenizer_find(handle_, bytes_of(text)));
}

bool Tokenizer::is_eos(TokenId id) const {
  return std::binary_search(eos_ids_.begin(), eos_ids_.end(), id);
}

}  // namespace quipu
