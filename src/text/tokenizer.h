// Tokenizer: text to token ids and back, exactly as the model's reference tokenizer does it.
//
// Made from GGUF metadata (TokenizerSpec) or from a Hugging Face directory. The work is done by the
// Rust library in text/shim; this class owns its handle and adds what a model file says about it:
// which ids end a turn, which chat template belongs to it.
//
// Text that is not valid UTF-8 is accepted by encode(): every invalid byte becomes that byte's own
// token in byte-level and byte-fallback vocabularies, so decode_bytes(encode(text)) gives it back;
// other vocabularies see U+FFFD in its place.
// THREADS: immutable after creation, thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"
#include "text/tokenizer_spec.h"

struct QuipuTokenizer;  // text/shim/quipu_text.h

namespace quipu {

struct EncodeOptions {
  bool add_special = true;    // put bos before and eos after, as the model was trained
  bool parse_special = true;  // control tokens written out in the text become those tokens
};

struct DecodeOptions {
  bool skip_special = true;  // leave out control and unknown tokens
};

// The texts that chat templates name: bos_token and so on; empty when there is none.
struct SpecialTokenTexts {
  std::string bos, eos, unknown, padding;
};

class Tokenizer {
 public:
  // ERRORS: kCorruptData (arrays that do not fit together), kUnsupported (unknown model or
  // pre-tokenizer name: the message lists the known ones), kInternal.
  static Result<std::unique_ptr<Tokenizer>> from_spec(TokenizerSpec spec);

  // From the first of these that the directory has: tokenizer.json; vocab.json with merges.txt;
  // tokenizer.model or spiece.model (SentencePiece); one *.tiktoken file. Special tokens, the end of
  // turn and the chat template come from tokenizer_config.json, special_tokens_map.json,
  // generation_config.json, chat_template.jinja and chat_template.json, where they exist.
  // ERRORS: kNotFound (none of these files), kCorruptData, kUnsupported, kIo.
  static Result<std::unique_ptr<Tokenizer>> from_hf_directory(const std::filesystem::path& directory);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // ERRORS: kInternal only; any bytes are accepted, NUL included.
  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options = {}) const;

  // Text as UTF-8; bytes that do not form characters are shown as U+FFFD. Unknown ids give nothing.
  std::string decode(std::span<const TokenId> ids, DecodeOptions options = {}) const;
  // The same without repair.
  std::string decode_bytes(std::span<const TokenId> ids, DecodeOptions options = {}) const;

  // The bytes of one token, often part of a character; empty for an unknown id.
  // OWNS: the view lives as long as the tokenizer.
  std::string_view piece(TokenId id) const;

  size_t vocab_size() const { return vocab_size_; }
  std::optional<TokenType> token_type(TokenId id) const;
  // Control and unknown tokens.
  bool is_special(TokenId id) const;
  // The id whose piece is exactly `text`. Slow: for set-up.
  std::optional<TokenId> find(std::string_view text) const;

  std::optional<TokenId> bos() const { return bos_; }
  std::optional<TokenId> eos() const { return eos_; }
  // Whether encode() with add_special starts with bos.
  bool adds_bos() const { return adds_bos_; }
  // Sorted: ids that end a text or a turn: eos, eot, eom, those of generation_config.json, and
  // control tokens with a well-known name such as <|im_end|>.
  std::span<const TokenId> eos_ids() const { return eos_ids_; }
  bool is_eos(TokenId id) const;

  // Jinja source, or empty.
  const std::string& chat_template() const { return chat_template_; }
  const SpecialTokenTexts& special_texts() const { return special_texts_; }
  // Whether decoding drops one space at the start of a text (SentencePiece's dummy prefix).
  bool strips_leading_space() const { return strips_leading_space_; }

  // For other parts of the text library.
  const QuipuTokenizer* handle() const { return handle_; }

  // The GGUF form of a tokenizer that came from a Hugging Face directory.
  // ERRORS: kUnsupported when GGUF has no name for its pre-tokenizer or model, or when it was made
  // from a spec (copy the file's own metadata instead).
  Result<TokenizerSpec> to_spec() const;

 private:
  struct SpecialIds {
    std::optional<TokenId> bos, eos, unknown, padding;
    std::vector<TokenId> ends;
  };

  explicit Tokenizer(QuipuTokenizer* handle);
  static Result<std::unique_ptr<Tokenizer>> from_tokenizer_json(const std::filesystem::path& file);
  void set_specials(const SpecialIds& ids);

  QuipuTokenizer* handle_;  // OWNS: freed by the destructor
  size_t vocab_size_ = 0;
  std::optional<TokenId> bos_, eos_, unknown_, padding_;
  bool adds_bos_ = false;
  bool strips_leading_space_ = false;
  std::vector<TokenId> eos_ids_;
  std::string chat_template_;
  SpecialTokenTexts special_texts_;
  std::unique_ptr<TokenizerSpec> spec_;  // kept for directories that are not tokenizer.json
  bool from_json_ = false;

  friend class HfDirectory;
};

}  // namespace quipu
