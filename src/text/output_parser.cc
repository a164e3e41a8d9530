#include "text/output_parser.h"

#include <algorithm>

namespace quipu {

namespace {

constexpr std::string_view kSpace = " \t\r\n";

void add_escaped(std::string_view text, std::string& json) {
  for (const char c : text) {
    switch (c) {
      case '"': json += "\\\""; break;
      case '\\': json += "\\\\"; break;
      case '\n': json += "\\n"; break;
      case '\r': json += "\\r"; break;
      case '\t': json += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          json += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          json += c;
        }
    }
  }
}

// The longest end of `text` that is a beginning of `mark`. UNITS: bytes.
size_t begun(std::string_view text, std::string_view mark) {
  for (size_t length = std::min(text.size(), mark.size() - 1); length > 0; --length) {
    if (text.ends_with(mark.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

OutputParser::OutputParser(OutputLayout layout)
    : layout_(std::move(layout)),
      state_(layout_.thinking.has_value() && layout_.thinking_open ? State::kThinking
                                                                   : State::kStart),
      skip_space_(state_ == State::kThinking) {
  if (layout_.thinking.has_value()) {
    thinking_begin_ = text_of(layout_.thinking->begin);
    thinking_end_ = text_of(layout_.thinking->end);
  }
  if (!layout_.calls.has_value()) return;
  const ToolFormat& format = *layout_.calls;
  const std::string before_name = text_of(format.before_name);
  calls_begin_ = text_of(format.begin);
  before_first_ = (format.marks_each ? "" : format.open) + before_name;
  after_name_ = text_of(format.after_name);
  before_next_ = (format.marks_each ? calls_begin_ : format.between) + before_name;
}

void OutputParser::add(OutputPiece::Kind kind, std::string_view text, Pieces& pieces) {
  if (text.find(kControlByte) != std::string_view::npos) {
    // A mark where none belongs is told as what it looks like.
    std::string plain(text);
    std::erase(plain, kControlByte);
    return add(kind, plain, pieces);
  }
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
    case State::kChoice:
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
      return take_up_to(thinking_end_, OutputPiece::Kind::kThinking, State::kChoice, pieces);
    case State::kChoice: return take_choice();
    case State::kContent: {
      const bool may_call = layout_.calls.has_value() && !layout_.calls_alone;
      return take_up_to(may_call ? calls_begin_ : "", OutputPiece::Kind::kContent,
                        State::kBeforeName, pieces);
    }
    case State::kBeforeName:
      if (pending_.size() < before_first_.size()) return false;
      pending_.erase(0, before_first_.size());
      state_ = State::kName;
      return true;
    case State::kName: return take_name(pieces);
    case State::kArguments: return take_arguments(pieces);
    case State::kKey: return take_key(pieces);
    case State::kTextValue:
    case State::kJsonValue: return take_value(pieces);
    case State::kBetween: return take_between();
  }
  return false;
}

// Whether the output begins with thinking.
bool OutputParser::take_start() {
  if (layout_.thinking.has_value()) {
    const std::string& mark = thinking_begin_;
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
  state_ = State::kChoice;
  return !pending_.empty();
}

// Calls alone, or content alone; where both may come, content is first.
bool OutputParser::take_choice() {
  if (!layout_.calls.has_value() || !layout_.calls_alone) {
    state_ = State::kContent;
    return true;
  }
  const std::string& mark = calls_begin_;
  const size_t text = skip_space_ ? pending_.find_first_not_of(kSpace) : 0;
  if (text == std::string::npos || text == pending_.size()) return false;
  const std::string_view seen = std::string_view(pending_).substr(text);
  if (seen.starts_with(mark)) {
    pending_.erase(0, text + mark.size());
    state_ = State::kBeforeName;
    return true;
  }
  if (mark.starts_with(seen)) return false;
  state_ = State::kContent;
  return true;
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
  const size_t at = pending_.find(after_name_);
  if (at == std::string::npos) return false;
  skip_space_ = false;
  tool_ = pending_.substr(0, at);
  add(OutputPiece::Kind::kCall, tool_, pieces);
  pending_.erase(0, at + after_name_.size());
  arguments_told_ = 0;
  if (layout_.calls->tags.has_value()) {
    state_ = State::kKey;
    return true;
  }
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

// The next argument's name, or what ends the call.
bool OutputParser::take_key(Pieces& pieces) {
  const ArgumentTags& tags = *layout_.calls->tags;
  if (pending_.empty()) return false;
  if (!pending_.starts_with(tags.before_key)) {
    if (tags.before_key.starts_with(pending_)) return false;
    add(OutputPiece::Kind::kArguments, arguments_told_ == 0 ? "{}" : "}", pieces);
    state_ = State::kBetween;
    return true;
  }
  const size_t end = pending_.find(tags.after_key, tags.before_key.size());
  if (end == std::string::npos) return false;
  const std::string key = pending_.substr(tags.before_key.size(), end - tags.before_key.size());
  pending_.erase(0, end + tags.after_key.size());
  const auto texts = layout_.text_arguments.find(tool_);
  const bool is_text = texts != layout_.text_arguments.end() && texts->second.contains(key);
  std::string json = arguments_told_++ == 0 ? "{\"" : ", \"";
  add_escaped(key, json);
  json += is_text ? "\": \"" : "\": ";
  add(OutputPiece::Kind::kArguments, json, pieces);
  state_ = is_text ? State::kTextValue : State::kJsonValue;
  return true;
}

// As much of a value as is there. JSON on one line has no line's end, with which a value's mark
// ends.
bool OutputParser::take_value(Pieces& pieces) {
  const std::string& mark = layout_.calls->tags->after_value;
  const size_t at = pending_.find(mark);
  const bool is_whole = at != std::string::npos;
  const size_t told = is_whole ? at : pending_.size() - begun(pending_, mark);
  const std::string_view value = std::string_view(pending_).substr(0, told);
  std::string json;
  if (state_ == State::kTextValue) {
    add_escaped(value, json);
    if (is_whole) json += '"';
  } else {
    json = value;
  }
  add(OutputPiece::Kind::kArguments, json, pieces);
  pending_.erase(0, told + (is_whole ? mark.size() : 0));
  if (is_whole) state_ = State::kKey;
  return is_whole;
}

// After a call: the next one, or nothing but marks. What begins the next is looked for.
bool OutputParser::take_between() {
  const size_t at = pending_.find(before_next_);
  if (at == std::string::npos) return false;
  pending_.erase(0, at + before_next_.size());
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
