#include "text/sentencepiece_model.h"

#include <bit>
#include <cstring>

namespace quipu {
namespace {

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581

struct Field {
  uint32_t number = 0;
  uint64_t value = 0;       // varint and fixed32
  std::string_view bytes;   // length-delimited
};

// Walks the fields of one message.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : rest_(bytes) {}

  // False at the end of the message or when it is broken.
  bool next(Field& field) {
    uint64_t tag = 0;
    if (rest_.empty() || broken_ || !read_varint(tag)) return false;
    field = Field();
    field.number = static_cast<uint32_t>(tag >> 3);
    switch (tag & 7) {
      case 0:
        return read_varint(field.value);
      case 1:
        return take(8, field.bytes);
      case 2: {
        uint64_t size = 0;
        return read_varint(size) && take(size, field.bytes);
      }
      case 5: {
        std::string_view four;
        if (!take(4, four)) return false;
        uint32_t value = 0;
        std::memcpy(&value, four.data(), 4);
        field.value = value;
        return true;
      }
      default:
        broken_ = true;
        return false;
    }
  }

  bool broken() const { return broken_; }

 private:
  bool read_varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    broken_ = true;
    return false;
  }

  bool take(uint64_t size, std::string_view& out) {
    if (size > rest_.size()) {
      broken_ = true;
      return false;
    }
    out = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }

  std::string_view rest_;
  bool broken_ = false;
};

bool read_piece(std::string_view bytes, TokenizerSpec& spec) {
  std::string text;
  float score = 0;
  int32_t type = 1;
  ProtoReader reader(bytes);
  Field field;
  while (reader.next(field)) {
    if (field.number == 1) text = field.bytes;
    if (field.number == 2) score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) type = static_cast<int32_t>(field.value);
  }
  spec.tokens.push_back(std::move(text));
  spec.scores.push_back(score);
  spec.token_types.push_back(type);
  return !reader.broken();
}

// TrainerSpec: the model type, byte fallback and the ids of special pieces (-1: none).
struct Trainer {
  uint64_t model_type = 1;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  int32_t unknown = 0, bos = 1, eos = 2, padding = -1;
};

bool read_trainer(std::string_view bytes, Trainer& trainer) {
  ProtoReader reader(bytes);
  Field field;
  while (reader.next(field)) {
    const auto id = static_cast<int32_t>(static_cast<int64_t>(field.value));
    switch (field.number) {
      case 3: trainer.model_type = field.value; break;
      case 24: trainer.whitespace_as_suffix = field.value != 0; break;
      case 35: trainer.byte_fallback = field.value != 0; break;
      case 40: trainer.unknown = id; break;
      case 41: trainer.bos = id; break;
      case 42: trainer.eos = id; break;
      case 43: trainer.padding = id; break;
      default: break;
    }
  }
  return !reader.broken();
}

bool read_normalizer(std::string_view bytes, TokenizerSpec& spec) {
  spec.add_space_prefix = true;
  spec.remove_extra_whitespaces = true;
  ProtoReader reader(bytes);
  Field field;
  while (reader.next(field)) {
    if (field.number == 2) spec.precompiled_charsmap = field.bytes;
    if (field.number == 3) spec.add_space_prefix = field.value != 0;
    if (field.number == 4) spec.remove_extra_whitespaces = field.value != 0;
  }
  return !reader.broken();
}

std::optional<TokenId> valid_id(int32_t id, size_t count) {
  return id >= 0 && static_cast<size_t>(id) < count ? std::optional<TokenId>(id) : std::nullopt;
}

// `text` with every U+2581 written as a space.
std::string with_spaces(std::string_view text) {
  std::string out;
  for (size_t at; (at = text.find(kSpace)) != std::string_view::npos;
       text.remove_prefix(at + kSpace.size())) {
    out += text.substr(0, at);
    out += ' ';
  }
  out += text;
  return out;
}

}  // namespace

Result<TokenizerSpec> read_sentencepiece_model(std::string_view bytes) {
  TokenizerSpec spec;
  Trainer trainer;
  ProtoReader reader(bytes);
  Field field;
  bool fine = true;
  while (reader.next(field)) {
    if (field.number == 1) fine = fine && read_piece(field.bytes, spec);
    if (field.number == 2) fine = fine && read_trainer(field.bytes, trainer);
    if (field.number == 3) fine = fine && read_normalizer(field.bytes, spec);
  }
  if (!fine || reader.broken() || spec.tokens.empty()) {
    return make_error(ErrorCode::kCorruptData,
                      "not a SentencePiece model: {} pieces read before the data broke",
                      spec.tokens.size());
  }
  if (trainer.model_type != 1 && trainer.model_type != 2) {
    return make_error(ErrorCode::kUnsupported,
                      "SentencePiece model type {}; known: 1 (unigram) and 2 (BPE)",
                      trainer.model_type);
  }
  if (trainer.whitespace_as_suffix) {
    return make_error(ErrorCode::kUnsupported, "SentencePiece models with spaces as suffix");
  }
  spec.model = trainer.model_type == 2 ? "llama" : "t5";
  spec.byte_fallback = trainer.byte_fallback;
  spec.bos = valid_id(trainer.bos, spec.tokens.size());
  spec.eos = valid_id(trainer.eos, spec.tokens.size());
  spec.unknown = valid_id(trainer.unknown, spec.tokens.size());
  spec.padding = valid_id(trainer.padding, spec.tokens.size());
  // User-defined pieces are compared with raw text, in which a space is a space.
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.token_types[i] == static_cast<int32_t>(TokenType::kUserDefined)) {
      spec.tokens[i] = with_spaces(spec.tokens[i]);
    }
  }
  return spec;
}

}  // namespace quipu
