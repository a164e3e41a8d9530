// TokenizerSpec: a vocabulary as GGUF metadata describes it, free of any file format.
//
// app/ fills it from `tokenizer.ggml.*` keys; Tokenizer::to_spec() makes one from a Hugging Face
// tokenizer so that it can be written as such keys. THREADS: a plain value, thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/strong_id.h"

namespace quipu {

// The numbers of tokenizer.ggml.token_type.
enum class TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // never comes from plain text, prints nothing to a user
  kUserDefined = 4,  // taken whole from any text
  kUnused = 5,
  kByte = 6,  // one byte, for characters without an entry
};

struct TokenizerSpec {
  // .model: "llama" (SentencePiece BPE), "gpt2", "t5" (unigram), or our own "characters" (entries
  // are single characters, looked up one by one; other readers of GGUF do not know it)
  std::string model;
  std::string pre;                  // .pre: pre-tokenizer name; empty: "default"; set it to force one
  std::vector<std::string> tokens;  // .tokens
  std::vector<float> scores;        // .scores: needed by llama and t5
  std::vector<int32_t> token_types;  // .token_type: empty means all normal
  std::vector<std::string> merges;   // .merges: needed by gpt2, as "left right"
  std::string precompiled_charsmap;  // .precompiled_charsmap: bytes, or empty
  bool byte_fallback = false;        // t5 only; llama always falls back to its byte tokens

  std::optional<TokenId> bos, eos, eot, eom, unknown, padding;
  // Absent: the family's default (llama adds bos; llama-bpe and tekken too; t5 adds eos).
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;

  // Tokens that take the white space behind them along. GGUF has no key for it.
  std::vector<TokenId> strip_after;

  std::string chat_template;  // tokenizer.chat_template, Jinja source, or empty
};

// Fills strip_after as Phi-3's tokenizer.json has it: every token that is taken whole, but the
// first two and <|endoftext|>. For a vocabulary of another family, nothing.
void strip_after_specials_of_phi3(TokenizerSpec& spec);

}  // namespace quipu
