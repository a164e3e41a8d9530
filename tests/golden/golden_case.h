// Golden cases (tests/golden/models), and the smallest engine that can run one: a backend, a model,
// and a cache of blocks in a shuffled order.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "engine/kv_storage.h"
#include "format/model_file.h"
#include "model/model.h"

namespace quipu::golden {

struct GoldenCase {
  std::string name;
  std::filesystem::path model;  // what open_model_file() is given
  bool is_gguf = false;
  std::vector<int32_t> tokens;  // the prompt
  std::vector<int32_t> logit_positions;
  std::vector<float> logits;    // SHAPE: [logit_positions, vocab_size]
  std::vector<int32_t> greedy;  // the continuation
  int vocab_size = 0;
  int64_t context = 0;  // what the model is loaded for; 0: its own
};

// Every case, by name. Aborts when a file is broken: the files are part of the repository.
const std::vector<GoldenCase>& all_cases();
const GoldenCase& find_case(const std::string& name);

struct RunOptions {
  Isa isa = Isa::kScalar;
  int threads = 1;
  std::optional<DType> weights;  // convert the linear weights of a Hugging Face directory
  KvFormat kv_format = KvFormat::kF32;
};

// A model bound to a backend of its own, in order of dependency.
struct LoadedCase {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<ModelFile> file;
  std::unique_ptr<Model> model;
};

Result<LoadedCase> load_case(const GoldenCase& golden, const RunOptions& options);

// A model and one sequence of it, without an engine.
class Session {
 public:
  static Result<std::unique_ptr<Session>> open(const GoldenCase& golden, const RunOptions& options);

  // Runs `tokens` behind what was fed before, at most `chunk` at a time, and returns the logits of
  // the tokens whose absolute positions are in `wanted`. SHAPE: [wanted, vocab_size].
  std::vector<float> feed(std::span<const int32_t> tokens, int chunk,
                          std::span<const int32_t> wanted);

  // Forgets all tokens; the blocks keep their old bytes.
  void restart() { position_ = 0; }

  int vocab_size() const { return static_cast<int>(loaded_.model->config().vocab_size); }

 private:
  Session() = default;

  LoadedCase loaded_;
  std::optional<KvStorage> storage_;
  std::vector<int32_t> block_table_;
  int32_t position_ = 0;
};

// A file of little-endian f32. Aborts when it is broken: the files are part of the repository.
std::vector<float> read_floats(const std::filesystem::path& path);

// Whether two rows of logits are the same bits.
bool same_bits(std::span<const float> a, std::span<const float> b);

inline constexpr int kContextTokensMax = 768;  // the longest case has 700 tokens and 16 more

// sum (a - b)^2 / sum b^2.
double normalised_squared_error(std::span<const float> actual, std::span<const float> expected);

// max |a - b| / max |b|.
double relative_max_error(std::span<const float> actual, std::span<const float> expected);

}  // namespace quipu::golden
