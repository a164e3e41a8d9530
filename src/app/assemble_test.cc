// What a block's key depends on, from the model file to the engine: everything that decides the
// bits of keys and values, and nothing else.
#include "app/assemble.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "app/synth_model.h"

namespace quipu {
namespace {

class BlockIdentity : public testing::Test {
 protected:
  BlockIdentity()
      : folder_(std::filesystem::temp_directory_path() /
                fmt::format("quipu-identity-{}", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~BlockIdentity() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::filesystem::path synth(const std::string& name, uint64_t seed) {
    SynthOptions options;
    options.shape = "tiny-llama";
    options.seed = seed;
    options.context = 256;
    const Status written = synth_model(options, folder_ / name);
    EXPECT_TRUE(written.ok()) << written.message();
    return folder_ / name;
  }

  // The key that all keys of one salt begin with.
  static BlockKey root(const ModelOptions& options) {
    Result<std::unique_ptr<LoadedModel>> loaded = assemble(options, nullptr);
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    PrefixIndex& index = (*loaded)->engine->scheduler().cache().index();
    return index.key(index.root(""));
  }

  std::filesystem::path folder_;
};

TEST_F(BlockIdentity, IsThatOfTheModelTheFormatsAndTheInstructionSet) {
  const ModelOptions options = {
      .model = synth("a.gguf", 1), .threads = 1, .isa = Isa::kScalar, .kv_bytes = 1 << 20};
  const BlockKey first = root(options);
  const auto with = [&](auto&& change) {
    ModelOptions other = options;
    change(other);
    return root(other);
  };
  // The same model elsewhere, later, with other threads, memory, chunks and context.
  EXPECT_EQ(root(options), first);
  std::filesystem::copy_file(folder_ / "a.gguf", folder_ / "copy.gguf");
  EXPECT_EQ(with([&](ModelOptions& o) { o.model = folder_ / "copy.gguf"; }), first);
  EXPECT_EQ(with([](ModelOptions& o) { o.threads = 2; }), first);
  EXPECT_EQ(with([](ModelOptions& o) { o.kv_bytes = 2 << 20; }), first);
  EXPECT_EQ(with([](ModelOptions& o) { o.prefill_chunk = 64; }), first);
  EXPECT_EQ(with([](ModelOptions& o) { o.context_length = 128; }), first);

  std::vector<BlockKey> all = {first};
  const std::filesystem::path other_weights = synth("b.gguf", 2);
  all.push_back(with([&](ModelOptions& o) { o.model = other_weights; }));
  for (const KvFormats& format : {KvFormats(KvFormat::kF32), KvFormats(KvFormat::kInt8),
                                  KvFormats(KvFormat::kInt4), *KvFormats::parse("bf16,first=int8"),
                                  *KvFormats::parse("bf16,last=int8")})
    all.push_back(with([&](ModelOptions& o) { o.kv_format = format; }));
  all.push_back(with([](ModelOptions& o) { o.streaming = {.window = 64}; }));
  all.push_back(with([](ModelOptions& o) { o.streaming = {.window = 64, .sinks = 4}; }));
  for (const Isa isa : detect_cpu_features().usable) {
    if (isa != Isa::kScalar) all.push_back(with([&](ModelOptions& o) { o.isa = isa; }));
  }
  std::vector<BlockKey> sorted = all;
  std::ranges::sort(sorted);
  EXPECT_EQ(std::ranges::adjacent_find(sorted), sorted.end()) << "two of them have one key";
}

}  // namespace
}  // namespace quipu
