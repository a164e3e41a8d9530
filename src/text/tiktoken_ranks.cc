#include "text/tiktoken_ranks.h"

#include <array>
#include <charconv>
#include <unordered_map>

namespace quipu {
namespace {

constexpr size_t kRanksMax = size_t{1} << 22;  // more than any published vocabulary

std::optional<std::string> decode_base64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') value = static_cast<uint32_t>(c - 'A');
    else if (c >= 'a' && c <= 'z') value = static_cast<uint32_t>(c - 'a') + 26;
    else if (c >= '0' && c <= '9') value = static_cast<uint32_t>(c - '0') + 52;
    else if (c == '+') value = 62;
    else if (c == '/') value = 63;
    else return std::nullopt;
    bits = (bits << 6) | value;
    count += 6;
    if (count >= 8) {
      count -= 8;
      out.push_back(static_cast<char>((bits >> count) & 0xff));
    }
  }
  return out;
}

// GPT-2's printable form: printable Latin-1 stands for itself, the rest moves to U+0100 and up.
std::array<std::string, 256> printable_bytes() {
  std::array<std::string, 256> table;
  uint32_t moved = 0;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const uint32_t code = itself ? byte : 0x100 + moved++;
    if (code < 0x80) {
      table[byte] = static_cast<char>(code);
    } else {
      table[byte] = {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
    }
  }
  return table;
}

using Ranks = std::unordered_map<std::string_view, uint32_t>;

// Merges the bytes of `token` with ranks below its own; the parts that remain.
std::vector<std::string_view> parts_below(std::string_view token, uint32_t rank, const Ranks& ranks) {
  std::vector<std::string_view> parts;
  for (size_t i = 0; i < token.size(); ++i) parts.push_back(token.substr(i, 1));
  while (parts.size() > 2) {
    size_t best = parts.size();
    uint32_t best_rank = rank;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find({parts[i].data(), parts[i].size() + parts[i + 1].size()});
      if (found != ranks.end() && found->second < best_rank) {
        best_rank = found->second;
        best = i;
      }
    }
    if (best == parts.size()) break;
    parts[best] = {parts[best].data(), parts[best].size() + parts[best + 1].size()};
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  return parts;
}

}  // namespace

Result<TokenizerSpec> read_tiktoken_ranks(std::string_view text) {
  std::vector<std::string> tokens;
  for (size_t line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (row.empty()) continue;
    const size_t space = row.find(' ');
    uint32_t rank = 0;
    std::optional<std::string> token;
    if (space != std::string_view::npos) {
      const std::string_view number = row.substr(space + 1);
      const auto parsed = std::from_chars(number.data(), number.data() + number.size(), rank);
      if (parsed.ec == std::errc()) token = decode_base64(row.substr(0, space));
    }
    // Ranks are ids: dense and in order in every published file.
    if (!token || token->empty() || token->size() > 4096 || rank != tokens.size() ||
        rank >= kRanksMax) {
      return make_error(ErrorCode::kCorruptData,
                        "rank file, line {}: expected '<base64> {}', found '{}'", line,
                        tokens.size(), row.substr(0, 40));
    }
    tokens.push_back(std::move(*token));
  }
  if (tokens.empty()) return make_error(ErrorCode::kCorruptData, "the rank file is empty");

  Ranks ranks;
  ranks.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) ranks.emplace(tokens[i], static_cast<uint32_t>(i));
  const std::array<std::string, 256> printable = printable_bytes();
  const auto print = [&printable](std::string_view bytes) {
    std::string out;
    for (const char byte : bytes) out += printable[static_cast<uint8_t>(byte)];
    return out;
  };
  TokenizerSpec spec;
  spec.model = "gpt2";
  for (size_t i = 0; i < tokens.size(); ++i) {
    spec.tokens.push_back(print(tokens[i]));
    spec.token_types.push_back(static_cast<int32_t>(TokenType::kNormal));
    if (tokens[i].size() < 2) continue;
    const auto parts = parts_below(tokens[i], static_cast<uint32_t>(i), ranks);
    // A token that no merge reaches has no merge either; it stays decodable.
    if (parts.size() == 2) spec.merges.push_back(print(parts[0]) + " " + print(parts[1]));
  }
  return spec;
}

}  // namespace quipu
