#include "text/stream_decoder.h"

#include <utility>

#include "base/utf8.h"

namespace quipu {

std::string StreamDecoder::push(TokenId id) {
  if (options_.skip_special && tokenizer_.is_special(id)) return {};
  std::string_view piece = tokenizer_.piece(id);
  if (piece.empty()) return {};
  if (std::exchange(drop_space_, false) && piece.front() == ' ') piece.remove_prefix(1);
  pending_ += piece;
  const size_t complete = pending_.size() - incomplete_utf8_suffix(pending_);
  std::string text = repair_utf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string StreamDecoder::finish() { return repair_utf8(std::exchange(pending_, {})); }

}  // namespace quipu
