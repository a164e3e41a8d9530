#include "golden_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "engine/engine.h"

namespace quipu::golden {

std::vector<float> read_floats(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  QUIPU_CHECK(stream.good(), "cannot read {}", path.string());
  std::vector<float> values(std::filesystem::file_size(path) / sizeof(float));
  stream.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
  QUIPU_CHECK(stream.good(), "cannot read {}", path.string());
  return values;
}

namespace {

constexpr int kBlockTokens = 32;

GoldenCase read_case(const std::filesystem::path& folder) {
  std::ifstream stream(folder / "golden.json");
  const nlohmann::json json = nlohmann::json::parse(stream);
  GoldenCase golden;
  golden.name = json.at("case");
  golden.is_gguf = json.at("model") != ".";
  golden.model = golden.is_gguf ? folder / json.at("model").get<std::string>() : folder;
  golden.tokens = json.at("tokens").get<std::vector<int32_t>>();
  golden.logit_positions = json.at("logit_positions").get<std::vector<int32_t>>();
  golden.greedy = json.at("greedy").get<std::vector<int32_t>>();
  golden.vocab_size = json.at("vocab_size");
  golden.context = json.value("context", int64_t{0});
  golden.logits = read_floats(folder / json.at("logits").get<std::string>());
  QUIPU_CHECK(golden.logits.size() ==
                  golden.logit_positions.size() * static_cast<size_t>(golden.vocab_size),
              "{}: {} logits", folder.string(), golden.logits.size());
  return golden;
}

// Blocks in an order that is neither rising nor falling, so that a kernel which ignores the table
// fails.
std::vector<int32_t> shuffled_blocks(int count) {
  std::vector<int32_t> blocks;
  for (int i = 0; i < count; ++i) blocks.push_back((i * 7 + 3) % count);
  return blocks;
}

}  // namespace

const std::vector<GoldenCase>& all_cases() {
  static const std::vector<GoldenCase>* cases = [] {
    auto* list = new std::vector<GoldenCase>();
    const std::filesystem::path root =
        std::filesystem::path(QUIPU_SOURCE_DIR) / "tests" / "golden" / "models";
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      if (std::filesystem::exists(entry.path() / "golden.json"))
        list->push_back(read_case(entry.path()));
    }
    std::ranges::sort(*list, {}, &GoldenCase::name);
    return list;
  }();
  return *cases;
}

const GoldenCase& find_case(const std::string& name) {
  const auto found = std::ranges::find(all_cases(), name, &GoldenCase::name);
  QUIPU_CHECK(found != all_cases().end(), "no golden case '{}'", name);
  return *found;
}

Result<LoadedCase> load_case(const GoldenCase& golden, const RunOptions& options) {
  LoadedCase loaded;
  QUIPU_ASSIGN_OR_RETURN(
      loaded.backend,
      make_cpu_backend({.threads = options.threads, .isa = options.isa, .pin_threads = false}));
  QUIPU_ASSIGN_OR_RETURN(loaded.file, open_model_file(golden.model, {.weights = options.weights}));
  QUIPU_ASSIGN_OR_RETURN(loaded.model, load_model(*loaded.file, *loaded.backend,
                                                  {.batch_tokens_max = kContextTokensMax,
                                                   .context_length = golden.context}));
  return loaded;
}

Result<std::unique_ptr<Session>> Session::open(const GoldenCase& golden,
                                               const RunOptions& options) {
  std::unique_ptr<Session> session(new Session());
  QUIPU_ASSIGN_OR_RETURN(session->loaded_, load_case(golden, options));
  const KvCacheSpec spec =
      kv_cache_spec_for(session->loaded_.model->config(), options.kv_format, kBlockTokens);
  session->block_table_ = shuffled_blocks(kContextTokensMax / kBlockTokens);
  const std::vector<int64_t> blocks(spec.groups.size(),
                                    static_cast<int64_t>(session->block_table_.size()));
  QUIPU_ASSIGN_OR_RETURN(session->storage_,
                         KvStorage::create(*session->loaded_.backend, spec, blocks));
  // A pool is not cleared: what it holds must not matter.
  for (const KvGroupView& group : session->storage_->view().groups)
    std::fill_n(group.kv.base, group.kv.block_bytes * blocks.front(), std::byte{0xff});
  return session;
}

std::vector<float> Session::feed(std::span<const int32_t> tokens, int chunk,
                                 std::span<const int32_t> wanted) {
  std::vector<float> out;
  while (!tokens.empty()) {
    const auto part = tokens.first(std::min(tokens.size(), static_cast<size_t>(chunk)));
    std::vector<int32_t> positions, rows;
    std::vector<int64_t> slots;
    for (size_t i = 0; i < part.size(); ++i) {
      const int32_t position = position_ + static_cast<int32_t>(i);
      positions.push_back(position);
      slots.push_back(int64_t{block_table_[static_cast<size_t>(position / kBlockTokens)]} *
                          kBlockTokens +
                      position % kBlockTokens);
      if (std::ranges::find(wanted, position) != wanted.end())
        rows.push_back(static_cast<int32_t>(i));
    }
    const std::vector<int32_t> query_start = {0, static_cast<int32_t>(part.size())};
    // Every group uses the same blocks of its own pool, and keeps what its windows left behind.
    const std::vector<GroupBatch> groups(storage_->view().groups.size(),
                                         {.slot_mapping = slots,
                                          .block_tables = block_table_,
                                          .block_table_stride = block_table_.size()});
    const std::span<const float> logits = loaded_.model->forward({.token_ids = part,
                                                                  .positions = positions,
                                                                  .query_start = query_start,
                                                                  .groups = groups,
                                                                  .logit_rows = rows},
                                                                 storage_->view());
    out.insert(out.end(), logits.begin(), logits.end());
    position_ += static_cast<int32_t>(part.size());
    tokens = tokens.subspan(part.size());
  }
  return out;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

double normalised_squared_error(std::span<const float> actual, std::span<const float> expected) {
  QUIPU_CHECK(actual.size() == expected.size(), "{} values for {}", actual.size(), expected.size());
  double difference = 0, total = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    difference += std::pow(double{actual[i]} - double{expected[i]}, 2);
    total += std::pow(double{expected[i]}, 2);
  }
  return difference / total;
}

double relative_max_error(std::span<const float> actual, std::span<const float> expected) {
  QUIPU_CHECK(actual.size() == expected.size(), "{} values for {}", actual.size(), expected.size());
  double difference = 0, largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(double{actual[i]} - double{expected[i]});
    if (std::isnan(error)) return error;
    difference = std::max(difference, error);
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  return difference / largest;
}

}  // namespace quipu::golden
