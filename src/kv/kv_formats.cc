#include "kv/kv_formats.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"

namespace quipu {

namespace {

constexpr std::string_view kExample = "write one format, and exceptions if you want: "
                                      "int8, or bf16,first=f32,3=int8,5-7=int8,last=f32";

Result<KvFormat> parse_format(std::string_view name) {
  const auto format = kv_format_from_name(name);
  if (format.has_value()) return *format;
  return make_error(ErrorCode::kInvalidArgument, "'{}' is not a KV format; known: {}", name,
                    kv_format_names());
}

std::optional<int> parse_layer(std::string_view text) {
  int layer = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, layer);
  if (text.empty() || parsed.ec != std::errc() || parsed.ptr != end || layer < 0)
    return std::nullopt;
  return layer;
}

Result<KvFormatRule> parse_rule(std::string_view item, size_t equals) {
  KvFormatRule rule;
  QUIPU_ASSIGN_OR_RETURN(rule.format, parse_format(item.substr(equals + 1)));
  const std::string_view where = item.substr(0, equals);
  if (where == "first") return rule;
  if (where == "last") {
    rule.last = true;
    return rule;
  }
  const size_t dash = where.find('-');
  const auto from = parse_layer(where.substr(0, dash));
  const auto to = dash == std::string_view::npos ? from : parse_layer(where.substr(dash + 1));
  if (!from.has_value() || !to.has_value() || *from > *to) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'{}' in '{}' names no layer; expected first, last, a number such as 3, or a "
                      "range such as 0-2",
                      where, item);
  }
  rule.from = *from;
  rule.to = *to;
  return rule;
}

std::string place_to_string(const KvFormatRule& rule) {
  if (rule.last) return "last";
  if (rule.from == 0 && rule.to == 0) return "first";
  return rule.from == rule.to ? std::to_string(rule.from)
                              : fmt::format("{}-{}", rule.from, rule.to);
}

}  // namespace

Result<KvFormats> KvFormats::parse(std::string_view text) {
  KvFormats formats;
  bool has_base = false;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view item = text.substr(at, comma - at);
    at = comma + 1;
    const size_t equals = item.find('=');
    if (equals != std::string_view::npos) {
      QUIPU_ASSIGN_OR_RETURN(KvFormatRule rule, parse_rule(item, equals));
      formats.rules.push_back(rule);
      continue;
    }
    if (has_base) {
      return make_error(ErrorCode::kInvalidArgument,
                        "'{}' names a second format for all layers; {}", item, kExample);
    }
    QUIPU_ASSIGN_OR_RETURN(formats.base, parse_format(item));
    has_base = true;
  }
  return formats;
}

Status KvFormats::check(int layers) const {
  for (const KvFormatRule& rule : rules) {
    if (rule.last || rule.to < layers) continue;
    return make_error(ErrorCode::kInvalidArgument,
                      "KV format '{}' names layer {}; the model has {} layers, 0 to {}",
                      to_string(), rule.to, layers, layers - 1);
  }
  return Status::ok_status();
}

std::vector<KvFormat> KvFormats::resolve(int layers) const {
  QUIPU_CHECK(check(layers).ok(), "{} for {} layers", to_string(), layers);
  std::vector<KvFormat> formats(static_cast<size_t>(layers), base);
  for (const KvFormatRule& rule : rules) {
    const int from = rule.last ? layers - 1 : rule.from;
    const int to = rule.last ? layers - 1 : rule.to;
    std::fill(formats.begin() + from, formats.begin() + to + 1, rule.format);
  }
  return formats;
}

std::string KvFormats::to_string() const {
  std::string text(kv_format_name(base));
  for (const KvFormatRule& rule : rules)
    text += fmt::format(",{}={}", place_to_string(rule), kv_format_name(rule.format));
  return text;
}

std::string kv_formats_by_layer(const std::vector<KvFormat>& formats) {
  if (std::adjacent_find(formats.begin(), formats.end(), std::not_equal_to<>()) == formats.end())
    return formats.empty() ? "" : std::string(kv_format_name(formats.front()));
  std::string text;
  for (size_t i = 0; i < formats.size();) {
    size_t end = i + 1;
    while (end < formats.size() && formats[end] == formats[i]) ++end;
    const std::string place = end == i + 1 ? std::to_string(i) : fmt::format("{}-{}", i, end - 1);
    text += fmt::format("{}{}={}", text.empty() ? "" : ",", place, kv_format_name(formats[i]));
    i = end;
  }
  return text;
}

}  // namespace quipu
