// OutputParser: the text of an output, as it comes, told apart into what the model thinks, what it
// says, and the tools it wants called.
//
// Calls follow their format to the letter, because a constraint made them (tool_format.h); only
// then is there a format to give. Arguments are told as one JSON object, however the model writes
// them. Joined, the pieces are the text without its marks and the white space around them, however
// it came in deltas. THREADS: thread-compatible.
#pragma once

#include <map>
#include <optional>
#include <set>
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
  bool calls_alone = false;         // calls or content, not one behind the other
  // Of calls with tags: for each tool, the arguments that are texts (TaggedArgument::is_text).
  std::map<std::string, std::set<std::string>> text_arguments;
};

class OutputParser {
 public:
  explicit OutputParser(OutputLayout layout);

  // Appends what `delta` completes (control tokens that are marks: as text_of() has them); what may
  // be the beginning of a mark is held back. A piece of the same kind as the last one of `pieces`
  // (but kCall) joins it.
  void push(std::string_view delta, std::vector<OutputPiece>& pieces);
  // Appends what was held back: the output is over.
  void finish(std::vector<OutputPiece>& pieces);

  bool is_thinking() const { return state_ == State::kThinking; }

 private:
  enum class State {
    kStart,
    kThinking,
    kChoice,  // between calls and content
    kContent,
    kBeforeName,
    kName,
    kArguments,
    kKey,  // of the next argument between tags, or the end of them
    kTextValue,
    kJsonValue,
    kBetween
  };
  using Pieces = std::vector<OutputPiece>;

  bool advance(Pieces& pieces);
  bool take_start();
  bool take_up_to(const std::string& mark, OutputPiece::Kind kind, State next, Pieces& pieces);
  bool take_name(Pieces& pieces);
  bool take_arguments(Pieces& pieces);
  bool take_choice();
  bool take_key(Pieces& pieces);
  bool take_value(Pieces& pieces);
  bool take_between();
  void add(OutputPiece::Kind kind, std::string_view text, Pieces& pieces);

  OutputLayout layout_;
  // Texts to look for; empty where there is nothing of the kind.
  std::string thinking_begin_, thinking_end_, calls_begin_;
  std::string before_first_, after_name_, before_next_;  // of names
  State state_;
  std::string pending_;
  bool skip_space_;  // white space behind a mark
  int depth_ = 0;    // of brackets in the arguments
  bool in_string_ = false, escaped_ = false;
  std::string tool_;        // that is called
  int arguments_told_ = 0;  // of those between tags
};

// Joins pieces of one kind; a call starts anew.
void append_pieces(std::vector<OutputPiece>& pieces, std::vector<OutputPiece>&& later);

}  // namespace quipu
