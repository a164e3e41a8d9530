// OutputParser: the text of an output, as it comes, told apart into what the model thinks, what it
// says, and the tools it wants called.
//
// Calls follow their format to the letter, because a constraint made them (tool_format.h); only
// then is there a format to give. Joined, the pieces are the text without its marks and the white
// space around them, however it came in deltas.
// THREADS: thread-compatible.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tool_format.h"

namespace quipu {

struct OutputPiece {
  enum class Kind { kThinking, kContent, kCall, kArguments };
  Kind kind = Kind::kContent;
  std::string text;  // of a call: the tool's name
};

// What an output may be made of.
struct OutputLayout {
  std::optional<ThinkingFormat> thinking;
  bool thinking_open = false;       // the output begins inside of it
  std::optional<ToolFormat> calls;  // the output may have calls
};

class OutputParser {
 public:
  explicit OutputParser(OutputLayout layout)
      : layout_(std::move(layout)),
        state_(layout_.thinking.has_value() && layout_.thinking_open ? State::kThinking
                                                                     : State::kStart),
        skip_space_(state_ == State::kThinking) {}

  // Appends what `delta` completes; what may be the beginning of a mark is held back. A piece of
  // the same kind as the last one of `pieces` (but kCall) joins it.
  void push(std::string_view delta, std::vector<OutputPiece>& pieces);
  // Appends what was held back: the output is over.
  void finish(std::vector<OutputPiece>& pieces);

  bool is_thinking() const { return state_ == State::kThinking; }

 private:
  enum class State { kStart, kThinking, kContent, kBeforeName, kName, kArguments, kBetween };
  using Pieces = std::vector<OutputPiece>;

  bool advance(Pieces& pieces);
  bool take_start();
  bool take_up_to(const std::string& mark, OutputPiece::Kind kind, State next, Pieces& pieces);
  bool take_name(Pieces& pieces);
  bool take_arguments(Pieces& pieces);
  bool take_between();
  void add(OutputPiece::Kind kind, std::string_view text, Pieces& pieces);

  OutputLayout layout_;
  State state_;
  std::string pending_;
  bool skip_space_;  // white space behind a mark
  int depth_ = 0;    // of brackets in the arguments
  bool in_string_ = false, escaped_ = false;
};

// Joins pieces of one kind; a call starts anew.
void append_pieces(std::vector<OutputPiece>& pieces, std::vector<OutputPiece>&& later);

}  // namespace quipu
