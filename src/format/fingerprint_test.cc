// What makes a model another model, and what does not.
#include "format/fingerprint.h"

#include "format/gguf_writer.h"
#include "format/test_files.h"

namespace quipu {
namespace {

struct Tensor {
  TensorInfo info;
  std::string bytes;
};

struct Model {
  MetadataEntries metadata;
  std::vector<Tensor> tensors;
};

Model small_model() {
  return {{{"general.architecture", std::string("llama")},
           {"general.name", std::string("a name")},
           {"llama.rope.freq_base", 10000.0},
           {"llama.rope.scaling.factor", 2.0},
           {"llama.attention.layer_norm_rms_epsilon", 1e-5},
           {"llama.block_count", uint64_t{2}},
           {"llama.attention.sliding_window_pattern", std::vector<bool>{true, false}},
           {"tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"}}},
          {{{"a.weight", DType::kF32, {2, 4}, 32}, std::string(32, 'a')},
           {{"b.weight", DType::kF32, {8}, 32}, std::string(32, 'b')}}};
}

class Fingerprint : public testing::Test {
 protected:
  // Reads the tensors in order, or from the last to the first.
  enum class Order { kForward, kBackward };
  std::string of(const Model& model, const std::string& name = "m.gguf",
                 Order order = Order::kForward) {
    std::vector<TensorInfo> infos;
    for (const Tensor& tensor : model.tensors) infos.push_back(tensor.info);
    Result<GgufWriter> writer = GgufWriter::create(folder_.path() / name, model.metadata, infos);
    EXPECT_TRUE(writer.ok());
    for (const Tensor& tensor : model.tensors)
      EXPECT_TRUE(writer->append(as_byte_span(tensor.bytes)).ok());
    EXPECT_TRUE(writer->finish().ok());
    Result<std::unique_ptr<ModelFile>> file = open_model_file(folder_.path() / name);
    EXPECT_TRUE(file.ok());
    const FingerprintedFile fingerprinted(std::move(file).value());
    if (order == Order::kBackward) std::reverse(infos.begin(), infos.end());
    for (const TensorInfo& info : infos) EXPECT_TRUE(fingerprinted.read(info.name).ok());
    return fingerprinted.fingerprint();
  }

  // That of the small model with one metadata entry changed.
  std::string with(const std::string& key, const MetadataValue& value) {
    Model model = small_model();
    for (auto& [known, old] : model.metadata) {
      if (known == key) {
        old = value;
        return of(model);
      }
    }
    model.metadata.emplace_back(key, value);
    return of(model);
  }

  const TemporaryFolder folder_;
};

TEST_F(Fingerprint, IsNotWhereOrWhenTheFileWasWrittenOrInWhichOrderItIsRead) {
  const std::string first = of(small_model());
  EXPECT_EQ(first.size(), 32u);
  EXPECT_EQ(of(small_model(), "another.gguf"), first);
  EXPECT_EQ(of(small_model(), "m.gguf", Order::kBackward), first);
  std::filesystem::last_write_time(folder_.path() / "m.gguf", {});
  EXPECT_EQ(of(small_model()), first);
  // The order of the entries, and of the tensors in the file.
  Model turned = small_model();
  std::reverse(turned.metadata.begin(), turned.metadata.end());
  std::reverse(turned.tensors.begin(), turned.tensors.end());
  EXPECT_EQ(of(turned), first);
}

TEST_F(Fingerprint, LeavesOutWhatDecidesNoNumber) {
  const std::string first = of(small_model());
  EXPECT_EQ(with("general.name", std::string("another name")), first);
  EXPECT_EQ(with("general.url", std::string("elsewhere")), first);
  EXPECT_EQ(with("tokenizer.ggml.tokens", std::vector<std::string>{"a", "c"}), first);
}

TEST_F(Fingerprint, ChangesWithMetadataThatDecidesNumbers) {
  const std::string first = of(small_model());
  EXPECT_NE(with("general.architecture", std::string("qwen2")), first);
  EXPECT_NE(with("llama.rope.freq_base", 10001.0), first);
  EXPECT_NE(with("llama.rope.scaling.factor", 4.0), first);
  EXPECT_NE(with("llama.rope.dimension_count", uint64_t{64}), first);
  EXPECT_NE(with("llama.attention.layer_norm_rms_epsilon", 1e-6), first);
  EXPECT_NE(with("llama.attention.sliding_window_pattern", std::vector<bool>{false, true}), first);
}

TEST_F(Fingerprint, ChangesWithTensors) {
  const std::string first = of(small_model());
  for (const size_t at : {size_t{0}, size_t{17}, size_t{31}}) {
    Model model = small_model();
    model.tensors[1].bytes[at] ^= 1;
    EXPECT_NE(of(model), first) << "byte " << at;
  }
  Model model = small_model();
  model.tensors[0].info.name = "c.weight";
  EXPECT_NE(of(model), first) << "a name";
  model = small_model();
  model.tensors[0].info.shape = {4, 2};
  EXPECT_NE(of(model), first) << "a shape";
  model = small_model();
  model.tensors[0].info = {"a.weight", DType::kF16, {2, 8}, 32};
  EXPECT_NE(of(model), first) << "a type";
  model = small_model();
  model.tensors.pop_back();
  EXPECT_NE(of(model), first) << "a tensor less";
  model = small_model();
  std::swap(model.tensors[0].bytes, model.tensors[1].bytes);
  EXPECT_NE(of(model), first) << "the same bytes in other tensors";
}

// Of large tensors 16 runs are hashed; those at the ends are among them.
TEST_F(Fingerprint, SeesTheEndsOfLargeTensors) {
  constexpr int64_t kFloats = 1 << 20;
  Model model = {{{"general.architecture", std::string("llama")}},
                 {{{"a.weight", DType::kF32, {kFloats}, 4 * kFloats},
                   std::string(static_cast<size_t>(4 * kFloats), 'a')}}};
  const std::string first = of(model);
  EXPECT_EQ(of(model), first);
  for (const size_t at : {size_t{0}, static_cast<size_t>(4 * kFloats) - 1}) {
    Model changed = model;
    changed.tensors[0].bytes[at] ^= 1;
    EXPECT_NE(of(changed), first) << "byte " << at;
  }
}

}  // namespace
}  // namespace quipu
