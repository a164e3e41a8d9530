// Reads a SentencePiece model file (tokenizer.model) into a TokenizerSpec.
//
// The file is a protocol buffer; only the fields that tokenizing needs are read, and every length is
// checked against the bytes that are there.
// SOURCE: sentencepiece_model.proto (field numbers), Protocol Buffers encoding.
#pragma once

#include <string_view>

#include "base/status.h"
#include "text/tokenizer_spec.h"

namespace quipu {

// ERRORS: kCorruptData (not such a file, or broken), kUnsupported (word and character models).
Result<TokenizerSpec> read_sentencepiece_model(std::string_view bytes);

}  // namespace quipu
