#include "format/hf_model.h"

#include <cstring>
#include <map>
#include <set>

#include "base/file.h"
#include "base/units.h"
#include "format/hf_config.h"
#include "format/hf_tensor.h"
#include "format/json.h"
#include "format/printable.h"
#include "format/safetensors.h"
#include "format/tensor_directory.h"
#include "format/weight_types.h"

namespace quipu {

namespace {

constexpr uint64_t kConfigBytesMax = 8 * kMiB;
constexpr JsonLimits kIndexLimits = {.bytes_max = 32 * kMiB, .depth_max = 8};
constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kTokenEmbedding = "token_embd.weight";

// " such as DIR/x.gguf" for a directory that holds one: for the message to who gave the directory.
std::string gguf_inside(const std::filesystem::path& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".gguf")
      return fmt::format(" such as {}", printable(entry.path().string()));
  }
  return "";
}

class HfModel : public ModelFile {
 public:
  HfModel(std::filesystem::path directory, const ModelFileOptions& options)
      : directory_path_(std::move(directory)), options_(options) {}

  const std::filesystem::path& path() const override { return directory_path_; }
  std::string container() const override {
    return files_.size() == 1 ? "safetensors" : fmt::format("safetensors, {} files", files_.size());
  }
  const Metadata& metadata() const override { return config_.metadata; }
  std::span<const TensorInfo> tensors() const override { return directory_.all(); }

  Result<TensorData> read(std::string_view name) const override;
  void release(std::string_view name) const override;
  std::optional<std::filesystem::path> tokenizer_directory() const override;

  Status open();

 private:
  Status read_config();
  // The shards' file names and, from an index, which tensors each must hold.
  Result<std::map<std::string, std::vector<std::string>>> list_shards() const;
  Result<std::map<std::string, std::vector<std::string>>> read_index() const;
  Status add_shard(const std::string& name, const std::vector<std::string>& promised);
  Status add_tensor(const SafetensorsEntry& entry, const std::string& file);
  DType converted_dtype(std::string_view name, const Shape& shape, DType stored) const;
  void add_rope_factors();
  Status check_head() const;

  std::span<const std::byte> source_bytes(const HfTensor& tensor) const {
    return files_[tensor.file].bytes().subspan(tensor.offset, tensor.source_bytes);
  }

  std::filesystem::path directory_path_;
  ModelFileOptions options_;
  HfConfig config_;
  std::vector<MappedFile> files_;
  // By index in directory_; the configuration's rope factors come last, without one.
  std::vector<HfTensor> sources_;
  TensorDirectory directory_;
};

Status HfModel::read_config() {
  const std::filesystem::path config_path = directory_path_ / "config.json";
  auto config = read_file(config_path, kConfigBytesMax);
  if (config.status().code() == ErrorCode::kNotFound) {
    return make_error(
        ErrorCode::kNotFound,
        "{}: no config.json; expected a Hugging Face model directory (config.json and "
        "model.safetensors), or a GGUF file{}",
        directory_path_.string(), gguf_inside(directory_path_));
  }
  if (!config.ok()) return config.status();
  const std::filesystem::path generation_path = directory_path_ / "generation_config.json";
  std::string generation;
  auto generation_text = read_file(generation_path, kConfigBytesMax);
  if (generation_text.ok()) {
    generation = std::move(generation_text).value();
  } else if (generation_text.status().code() != ErrorCode::kNotFound) {
    return generation_text.status();
  }
  std::filesystem::path folder = directory_path_.lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  QUIPU_ASSIGN_OR_RETURN(
      config_, parse_hf_config(*config, config_path.string(), generation, generation_path.string(),
                               printable(folder.filename().string())));
  return Status::ok_status();
}

Result<std::map<std::string, std::vector<std::string>>> HfModel::list_shards() const {
  std::error_code error;
  if (std::filesystem::exists(directory_path_ / "model.safetensors", error)) {
    return std::map<std::string, std::vector<std::string>>{{"model.safetensors", {}}};
  }
  if (std::filesystem::exists(directory_path_ / kIndexName, error)) return read_index();
  const bool pickled =
      std::filesystem::exists(directory_path_ / "pytorch_model.bin", error) ||
      std::filesystem::exists(directory_path_ / "pytorch_model.bin.index.json", error);
  return make_error(ErrorCode::kNotFound, "{}: neither model.safetensors nor {} is there{}",
                    directory_path_.string(), kIndexName,
                    pickled ? "; there is a pytorch_model.bin, which quipu does not read: save the "
                              "model as safetensors"
                            : "");
}

Result<std::map<std::string, std::vector<std::string>>> HfModel::read_index() const {
  const std::string file = (directory_path_ / kIndexName).string();
  QUIPU_ASSIGN_OR_RETURN(const std::string text, read_file(file, kIndexLimits.bytes_max));
  QUIPU_ASSIGN_OR_RETURN(const Json json, parse_json_object(text, file, kIndexLimits));
  const auto weight_map = json.find("weight_map");
  if (weight_map == json.end() || !weight_map->is_object() || weight_map->empty()) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: expected 'weight_map', an object of tensor names and files", file);
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : weight_map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    // Plain names of files beside the index: nothing that leads elsewhere, or back to the index.
    const bool plain = name.ends_with(".safetensors") &&
                       name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
                       name.front() != '.';
    if (!plain) {
      return make_error(ErrorCode::kCorruptData,
                        "{}: tensor '{}': expected the name of a .safetensors file in the same "
                        "directory, found {}",
                        file, printable(tensor), describe_json(shard));
    }
    shards[name].push_back(tensor);
  }
  return shards;
}

Status HfModel::add_shard(const std::string& name, const std::vector<std::string>& promised) {
  const std::filesystem::path path = directory_path_ / name;
  auto file = MappedFile::open(path);
  if (file.status().code() == ErrorCode::kNotFound) {
    return make_error(ErrorCode::kNotFound,
                      "{}: missing; {} names it for {} tensors; download it too", path.string(),
                      kIndexName, promised.size());
  }
  if (!file.ok()) return file.status();
  QUIPU_ASSIGN_OR_RETURN(const auto entries, parse_safetensors(file->bytes(), path.string()));
  std::set<std::string_view> names;
  for (const SafetensorsEntry& entry : entries) names.insert(entry.name);
  for (const std::string& tensor : promised) {
    if (!names.contains(tensor)) {
      return make_error(ErrorCode::kCorruptData,
                        "{}: {} says that this file holds tensor '{}', but it does not",
                        path.string(), kIndexName, printable(tensor));
    }
  }
  files_.push_back(std::move(file).value());
  for (const SafetensorsEntry& entry : entries)
    QUIPU_RETURN_IF_ERROR(add_tensor(entry, path.string()));
  return Status::ok_status();
}

Status HfModel::add_tensor(const SafetensorsEntry& entry, const std::string& file) {
  const NameLookup lookup = map_tensor_name(*config_.architecture, entry.name);
  if (lookup.kind == NameKind::kIgnored) return Status::ok_status();
  const std::string shown = printable(entry.name);
  if (lookup.kind == NameKind::kUnknown) {
    return make_error(
        ErrorCode::kUnsupported,
        "{}: tensor '{}' is not one of architecture '{}'; quipu cannot use this model", file, shown,
        config_.architecture->model_type);
  }
  const MappedName& mapped = lookup.mapped;
  if (mapped.gguf_name == "output.weight" && config_.tied_embeddings) return Status::ok_status();
  if (mapped.layer && *mapped.layer >= config_.block_count) {
    return make_error(
        ErrorCode::kCorruptData,
        "{}: tensor '{}' is of layer {}, but config.json says that there are {} layers", file,
        shown, *mapped.layer, config_.block_count);
  }
  if (!entry.dtype) {
    return make_error(
        ErrorCode::kUnsupported,
        "{}: tensor '{}' has type {}, which quipu cannot read; supported: F32, F16, BF16", file,
        shown, entry.type_name);
  }
  const bool transposed = mapped.order == RowOrder::kTransposed;
  const bool shape_ok = !entry.shape.empty() && entry.shape.size() <= 2 && entry.bytes > 0 &&
                        (!transposed || entry.shape.size() == 2);
  if (!shape_ok) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: tensor '{}': expected {} dimensions of 1 or more, found {}", file, shown,
                      transposed ? "2" : "1 or 2", shape_to_string(entry.shape));
  }
  HfTensor source{.file = files_.size() - 1,
                  .offset = entry.offset,
                  .source_bytes = entry.bytes,
                  .source_dtype = *entry.dtype,
                  .source_shape = entry.shape,
                  .order = mapped.order,
                  .added = mapped.added};
  if (mapped.order == RowOrder::kPermuteQueryHeads) source.heads = config_.head_count;
  if (mapped.order == RowOrder::kPermuteKeyHeads) source.heads = config_.head_count_kv;
  if (entry.shape[0] %
              (source.heads > 1 || mapped.order != RowOrder::kSame ? 2 * source.heads : 1) !=
          0 &&
      !transposed) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: tensor '{}' {}: expected rows for {} heads of an even size", file, shown,
                      shape_to_string(entry.shape), source.heads);
  }
  Shape shape = entry.shape;
  if (transposed) std::swap(shape[0], shape[1]);
  DType dtype = shape.size() == 1 ? DType::kF32 : *entry.dtype;
  if (options_.weights) dtype = converted_dtype(mapped.gguf_name, shape, dtype);
  const int64_t rows = element_count(shape) / shape.back();
  const size_t bytes =
      static_cast<size_t>(rows) * row_bytes(dtype, static_cast<size_t>(shape.back()));
  if (!directory_.add({mapped.gguf_name, dtype, shape, bytes})) {
    return make_error(ErrorCode::kCorruptData, "{}: tensor '{}' appears twice in the model", file,
                      shown);
  }
  sources_.push_back(std::move(source));
  return Status::ok_status();
}

// The type that a tensor stored as `stored` gets under options_.weights.
DType HfModel::converted_dtype(std::string_view name, const Shape& shape, DType stored) const {
  const bool tied_head = config_.tied_embeddings && name == kTokenEmbedding;
  if (!tied_head && !is_linear_weight(name, shape)) return stored;
  return mixed_dtype({*options_.weights, config_.block_count, config_.tied_embeddings}, name,
                     shape);
}

void HfModel::add_rope_factors() {
  for (const RopeFactors& factors : config_.rope_factors) {
    const auto count = static_cast<int64_t>(factors.values.size());
    QUIPU_CHECK(directory_.add({std::string(factors.gguf_name),
                                DType::kF32,
                                {count},
                                factors.values.size() * sizeof(float)}),
                "no rule maps to {}", factors.gguf_name);
  }
}

// An untied head must be there: its absence would otherwise look like a tied one.
Status HfModel::check_head() const {
  if (config_.tied_embeddings || find("output.weight") != nullptr) return Status::ok_status();
  return make_error(ErrorCode::kCorruptData,
                    "{}: no tensor 'lm_head.weight', and config.json does not say "
                    "\"tie_word_embeddings\": true; a file is "
                    "missing, or the directory holds no language-model head",
                    directory_path_.string());
}

Status HfModel::open() {
  QUIPU_RETURN_IF_ERROR(read_config());
  QUIPU_ASSIGN_OR_RETURN(const auto shards, list_shards());
  for (const auto& [name, promised] : shards) QUIPU_RETURN_IF_ERROR(add_shard(name, promised));
  QUIPU_RETURN_IF_ERROR(check_head());
  add_rope_factors();
  return Status::ok_status();
}

Result<TensorData> HfModel::read(std::string_view name) const {
  QUIPU_ASSIGN_OR_RETURN(const size_t index, directory_.index_of(name, directory_path_.string()));
  const TensorInfo& info = directory_.all()[index];
  if (index >= sources_.size()) {
    const RopeFactors& factors = config_.rope_factors[index - sources_.size()];
    return view_or_aligned_copy(info.dtype, info.shape, std::as_bytes(std::span(factors.values)));
  }
  const HfTensor& tensor = sources_[index];
  if (tensor.is_view(info.dtype))
    return view_or_aligned_copy(info.dtype, info.shape, source_bytes(tensor));
  TensorData data;
  QUIPU_ASSIGN_OR_RETURN(data.owned, AlignedBuffer::allocate(info.bytes));
  convert_tensor(tensor, source_bytes(tensor), info.dtype, options_.threads, data.owned.bytes());
  data.view = {info.dtype, info.shape, data.owned.bytes()};
  return data;
}

void HfModel::release(std::string_view name) const {
  const auto index = directory_.index_of(name, directory_path_.string());
  if (!index.ok() || *index >= sources_.size()) return;
  const HfTensor& tensor = sources_[*index];
  files_[tensor.file].release(source_bytes(tensor));
}

std::optional<std::filesystem::path> HfModel::tokenizer_directory() const {
  std::error_code error;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json"}) {
    if (std::filesystem::exists(directory_path_ / name, error)) return directory_path_;
  }
  return std::nullopt;
}

}  // namespace

Result<std::unique_ptr<ModelFile>> open_hf_model(const std::filesystem::path& directory,
                                                 const ModelFileOptions& options) {
  auto model = std::make_unique<HfModel>(directory, options);
  QUIPU_RETURN_IF_ERROR(model->open());
  return std::unique_ptr<ModelFile>(std::move(model));
}

}  // namespace quipu
