#include "text/output_parser.h"

#include <algorithm>

namespace quipu {

namespace {

constexpr std::string_view kSpace = " \t\r\n";

// The longest end of `text` that is a beginning of `mark`. UNITS: bytes.
size_t begun(std::string_view text, std::string_view mark) {
  for (size_t length = std::min(text.size(), mark.size() - 1); length > 0; --length) {
    if (text.ends_with(mark.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

void OutputParser::add(OutputPiece::Kind kind, std::string_view text, Pieces& pieces) {
  if (skip_space_) {
    text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
    skip_space_ = text.empty();
  }
  if (text.empty() && kind != OutputPiece::Kind::kCall) return;
  if (kind != OutputPiece::Kind::kCall && !pieces.empty() && pieces.back().kind == kind) {
    pieces.back().text += text;
  } else {
    pieces.push_back({kind, std::string(text)});
  }
}

void OutputParser::push(std::string_view delta, Pieces& pieces) {
  pending_ += delta;
  while (advance(pieces)) {
  }
}

void OutputParser::finish(Pieces& pieces) {
  switch (state_) {
    case State::kThinking: add(OutputPiece::Kind::kThinking, pending_, pieces); break;
    case State::kStart:
    case State::kContent: add(OutputPiece::Kind::kContent, pending_, pieces); break;
    default: break;  // a call that was cut off has told what there is of it
  }
  pending_.clear();
}

// One part of what is pending. False: more text is needed.
bool OutputParser::advance(Pieces& pieces) {
  switch (state_) {
    case State::kStart: return take_start();
    case State::kThinking:
      return take_up_to(layout_.thinking->end.text, OutputPiece::Kind::kThinking, State::kContent,
                        pieces);
    case State::kContent:
      return take_up_to(layout_.calls.has_value() ? layout_.calls->begin.text : "",
                        OutputPiece::Kind::kContent, State::kBeforeName, pieces);
    case State::kBeforeName: {
      const std::string before =
          (layout_.calls->marks_each ? "" : layout_.calls->open) + layout_.calls->before_name;
      if (pending_.size() < before.size()) return false;
      pending_.erase(0, before.size());
      state_ = State::kName;
      return true;
    }
    case State::kName: return take_name(pieces);
    case State::kArguments: return take_arguments(pieces);
    case State::kBetween: return take_between();
  }
  return false;
}

// Whether the output begins with thinking.
bool OutputParser::take_start() {
  if (layout_.thinking.has_value()) {
    const std::string& mark = layout_.thinking->begin.text;
    const size_t text = pending_.find_first_not_of(kSpace);
    if (text == std::string::npos) return false;
    if (pending_.compare(text, mark.size(), mark) == 0) {
      pending_.erase(0, text + mark.size());
      skip_space_ = true;
      state_ = State::kThinking;
      return true;
    }
    if (mark.starts_with(std::string_view(pending_).substr(text))) return false;
  }
  state_ = State::kContent;
  return !pending_.empty();
}

bool OutputParser::take_up_to(const std::string& mark, OutputPiece::Kind kind, State next,
                              Pieces& pieces) {
  const size_t at = mark.empty() ? std::string::npos : pending_.find(mark);
  if (at == std::string::npos) {
    // White space may be what stands before a mark; it is told with what follows it.
    size_t keep = mark.empty() ? 0 : begun(pending_, mark);
    if (!mark.empty()) {
      const size_t end = pending_.size() - keep;
      const size_t last = pending_.find_last_not_of(kSpace, end == 0 ? 0 : end - 1);
      const size_t kept = end == 0 || last == std::string::npos ? 0 : last + 1;
      keep = pending_.size() - std::min(kept, end);
    }
    const size_t told = pending_.size() - keep;
    add(kind, std::string_view(pending_).substr(0, told), pieces);
    pending_.erase(0, told);
    return false;
  }
  std::string_view before = std::string_view(pending_).substr(0, at);
  before = before.substr(0, before.find_last_not_of(kSpace) + 1);
  add(kind, before, pieces);
  pending_.erase(0, at + mark.size());
  skip_space_ = true;
  state_ = next;
  return true;
}

bool OutputParser::take_name(Pieces& pieces) {
  const std::string& mark = layout_.calls->after_name.text;
  const size_t at = pending_.find(mark);
  if (at == std::string::npos) return false;
  skip_space_ = false;
  add(OutputPiece::Kind::kCall, std::string_view(pending_).substr(0, at), pieces);
  pending_.erase(0, at + mark.size());
  depth_ = 0;
  in_string_ = escaped_ = false;
  state_ = State::kArguments;
  return true;
}

// The arguments are one JSON object.
bool OutputParser::take_arguments(Pieces& pieces) {
  for (size_t i = 0; i < pending_.size(); ++i) {
    const char c = pending_[i];
    if (in_string_) {
      if (!escaped_ && c == '"') in_string_ = false;
      escaped_ = !escaped_ && c == '\\';
      continue;
    }
    if (c == '"') in_string_ = true;
    if (c == '{' || c == '[') ++depth_;
    if (c != '}' && c != ']') continue;
    if (--depth_ > 0) continue;
    add(OutputPiece::Kind::kArguments, std::string_view(pending_).substr(0, i + 1), pieces);
    pending_.erase(0, i + 1);
    state_ = State::kBetween;
    return true;
  }
  add(OutputPiece::Kind::kArguments, pending_, pieces);
  pending_.clear();
  return false;
}

// After a call: the next one, or nothing but marks. What begins the next is looked for.
bool OutputParser::take_between() {
  const ToolFormat& format = *layout_.calls;
  const std::string next = format.marks_each ? format.begin.text + format.before_name
                                             : format.between + format.before_name;
  const size_t at = pending_.find(next);
  if (at == std::string::npos) return false;
  pending_.erase(0, at + next.size());
  state_ = State::kName;
  return true;
}

void append_pieces(std::vector<OutputPiece>& pieces, std::vector<OutputPiece>&& later) {
  for (OutputPiece& piece : later) {
    const bool joins = piece.kind != OutputPiece::Kind::kCall && !pieces.empty() &&
                       pieces.back().kind == piece.kind;
    if (joins) {
      pieces.back().text += piece.text;
    } else {
      pieces.push_back(std::move(piece));
    }
  }
}

}  // namespace quipu
