// StreamDecoder: tokens to text as they are generated, never half a character.
//
// Invariants:
//   1. every push() returns valid UTF-8 made of whole characters;
//   2. all pushes and finish() joined equal Tokenizer::decode() of all tokens (for kContinuation:
//      without its removal of a leading space).
// At most three bytes are held back between calls. THREADS: thread-compatible.
#pragma once

#include <string>

#include "base/strong_id.h"
#include "text/tokenizer.h"

namespace quipu {

class StreamDecoder {
 public:
  // What the tokens are: a text from its start, where SentencePiece's dummy space is dropped, or the
  // continuation of a prompt, where a leading space is part of the text.
  enum class Start { kText, kContinuation };

  // OWNS: keeps a reference to the tokenizer, which must outlive it.
  explicit StreamDecoder(const Tokenizer& tokenizer, Start start = Start::kContinuation,
                         DecodeOptions options = {})
      : tokenizer_(tokenizer),
        options_(options),
        drop_space_(start == Start::kText && tokenizer.strips_leading_space()) {}

  // The characters that this token completes; often empty inside a character of many tokens.
  std::string push(TokenId id);

  // What is still held back, repaired (U+FFFD). The decoder is then at the start of nothing: do not
  // push again.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  DecodeOptions options_;
  bool drop_space_;
  std::string pending_;  // an incomplete character, at most 3 bytes between calls
};

}  // namespace quipu
