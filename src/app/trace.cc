#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "app/simulate.h"
#include "base/file.h"
#include "base/units.h"

namespace quipu {

namespace {

constexpr uint64_t kTraceBytesMax = 4 * kGiB;
constexpr int64_t kTokensMax = 100'000'000;  // of one request

// Gives equal runs of tokens, after equal beginnings, equal ids.
class RunIds {
 public:
  std::vector<int64_t> ids_of(const std::vector<int64_t>& tokens) {
    std::vector<int64_t> ids;
    uint64_t chain = 0;
    for (size_t at = 0; at < tokens.size(); at += kTraceBlockTokens) {
      const size_t count = std::min<size_t>(kTraceBlockTokens, tokens.size() - at);
      chain = XXH3_64bits_withSeed(tokens.data() + at, count * sizeof(int64_t), chain);
      ids.push_back(static_cast<int64_t>(known_.try_emplace(chain, known_.size()).first->second));
    }
    return ids;
  }

 private:
  std::unordered_map<uint64_t, size_t> known_;
};

int64_t int_field(const nlohmann::json& line, const char* name, int64_t low, int64_t high) {
  const nlohmann::json& value = line.at(name);
  const double number = value.get<double>();
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high))) {
    throw std::out_of_range(fmt::format("'{}' is {}; expected {} to {}", name, number, low, high));
  }
  return static_cast<int64_t>(number);
}

// Throws what nlohmann throws; the caller turns it into a Status.
TraceRequest parse_line(std::string_view text, RunIds& run_ids) {
  const nlohmann::json line = nlohmann::json::parse(text);
  TraceRequest request;
  request.arrival_ms = int_field(line, "timestamp", 0, int64_t{1} << 50);
  request.output_tokens = int_field(line, "output_length", 0, kTokensMax);
  if (line.contains("tokens")) {
    const auto tokens = line.at("tokens").get<std::vector<int64_t>>();
    request.input_tokens = static_cast<int64_t>(tokens.size());
    request.hash_ids = run_ids.ids_of(tokens);
    return request;
  }
  request.input_tokens = int_field(line, "input_length", 0, kTokensMax);
  request.hash_ids = line.at("hash_ids").get<std::vector<int64_t>>();
  const int64_t blocks = static_cast<int64_t>(
      ceil_div(static_cast<uint64_t>(request.input_tokens), kTraceBlockTokens));
  if (static_cast<int64_t>(request.hash_ids.size()) < blocks) {
    throw std::out_of_range(fmt::format("{} hash ids for {} tokens; expected {}",
                                        request.hash_ids.size(), request.input_tokens, blocks));
  }
  request.hash_ids.resize(static_cast<size_t>(blocks));
  return request;
}

}  // namespace

Result<std::vector<TraceRequest>> read_trace(const std::filesystem::path& path,
                                             int64_t requests_max) {
  QUIPU_ASSIGN_OR_RETURN(const std::string text, read_file(path, kTraceBytesMax));
  std::vector<TraceRequest> trace;
  RunIds run_ids;
  int64_t line_number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    at = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \r\t") == std::string_view::npos) continue;
    try {
      trace.push_back(parse_line(line, run_ids));
    } catch (const std::exception& error) {
      return make_error(
          ErrorCode::kCorruptData,
          "{}: line {}: {}; expected a JSON object with timestamp, output_length, and "
          "input_length with hash_ids, or tokens",
          path.string(), line_number, error.what());
    }
    if (requests_max > 0 && static_cast<int64_t>(trace.size()) == requests_max) break;
  }
  if (trace.empty())
    return make_error(ErrorCode::kCorruptData, "{}: the trace has no requests", path.string());
  std::ranges::stable_sort(trace, {}, &TraceRequest::arrival_ms);
  return trace;
}

}  // namespace quipu
