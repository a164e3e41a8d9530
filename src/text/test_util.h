// For tests of outputs and their fuzzer: a text as a parser gets it, in pieces.
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "text/output_parser.h"

namespace quipu {

// What a text is made of, when it comes in pieces of 1 to `length_max` bytes that the seed decides; 0:
// whole. Where it is cut must not matter.
inline std::vector<OutputPiece> parse_cut(const OutputLayout& layout, std::string_view text,
                                          uint64_t length_max, uint64_t seed) {
  Random random(seed);
  OutputParser parser(layout);
  std::vector<OutputPiece> all, pieces;
  while (!text.empty()) {
    const size_t length =
        length_max == 0 ? text.size() : std::min(text.size(), 1 + random.next_below(length_max));
    pieces.clear();
    parser.push(text.substr(0, length), pieces);
    append_pieces(all, std::move(pieces));
    text.remove_prefix(length);
  }
  pieces.clear();
  parser.finish(pieces);
  append_pieces(all, std::move(pieces));
  return all;
}

}  // namespace quipu
