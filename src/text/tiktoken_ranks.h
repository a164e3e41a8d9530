// Reads tiktoken's rank files (`base64 rank` lines) into a byte-level BPE TokenizerSpec.
#pragma once

#include <string_view>

#include "base/status.h"
#include "text/tokenizer_spec.h"

namespace quipu {

// Fills tokens, token_types and merges (model "gpt2"); the caller adds special tokens after them and
// sets `pre`, which a rank file does not tell.
// ERRORS: kCorruptData with the line.
Result<TokenizerSpec> read_tiktoken_ranks(std::string_view text);

}  // namespace quipu
