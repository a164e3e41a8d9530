#include "format/gguf_model.h"

#include "base/file.h"
#include "format/gguf.h"
#include "format/printable.h"
#include "format/tensor_directory.h"

namespace quipu {

namespace {

class GgufModel : public ModelFile {
 public:
  const std::filesystem::path& path() const override { return path_; }
  std::string container() const override { return container_; }
  const Metadata& metadata() const override { return metadata_; }
  std::span<const TensorInfo> tensors() const override { return directory_.all(); }

  Result<TensorData> read(std::string_view name) const override {
    QUIPU_ASSIGN_OR_RETURN(const size_t index, directory_.index_of(name, path_.string()));
    const TensorInfo& info = directory_.all()[index];
    return view_or_aligned_copy(info.dtype, info.shape, bytes_of(index));
  }

  void release(std::string_view name) const override {
    const auto index = directory_.index_of(name, path_.string());
    if (index.ok()) files_[places_[*index].file].release(bytes_of(*index));
  }

  Status open(const std::filesystem::path& path);

 private:
  struct Place {
    size_t file;
    uint64_t offset;
  };

  std::span<const std::byte> bytes_of(size_t index) const {
    const Place& place = places_[index];
    return files_[place.file].bytes().subspan(place.offset, directory_.all()[index].bytes);
  }

  // Maps and reads one file; adds its tensors.
  Result<GgufContents> add_file(const std::filesystem::path& path);
  Status open_rest_of_split(const GgufContents& first);

  std::filesystem::path path_;
  std::string container_;
  Metadata metadata_;
  std::vector<MappedFile> files_;
  std::vector<Place> places_;  // by index in directory_
  TensorDirectory directory_;
};

Result<GgufContents> GgufModel::add_file(const std::filesystem::path& path) {
  QUIPU_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  QUIPU_ASSIGN_OR_RETURN(GgufContents contents, parse_gguf(file.bytes(), path.string()));
  for (const GgufTensor& tensor : contents.tensors) {
    if (!directory_.add({tensor.name, tensor.dtype, tensor.shape, tensor.bytes})) {
      return make_error(ErrorCode::kCorruptData,
                        "{}: tensor '{}' is in an earlier file of the split set too", path.string(),
                        printable(tensor.name));
    }
    places_.push_back({files_.size(), tensor.offset});
  }
  files_.push_back(std::move(file));
  return contents;
}

// "model-00001-of-00003.gguf" for (1, 3), from the name of any part; nothing for other names.
std::optional<std::filesystem::path> split_part_path(const std::filesystem::path& path,
                                                     int64_t part, int64_t count) {
  const std::string name = path.filename().string();
  const std::string_view kPattern = "-00001-of-00001.gguf";
  if (name.size() <= kPattern.size()) return std::nullopt;
  const std::string_view tail = std::string_view(name).substr(name.size() - kPattern.size());
  for (size_t i = 0; i < tail.size(); ++i) {
    const bool digit = kPattern[i] >= '0' && kPattern[i] <= '9';
    if (digit ? tail[i] < '0' || tail[i] > '9' : tail[i] != kPattern[i]) return std::nullopt;
  }
  const std::string stem = name.substr(0, name.size() - kPattern.size());
  return path.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", stem, part, count);
}

Status GgufModel::open_rest_of_split(const GgufContents& first) {
  const int64_t count = first.metadata.get_int("split.count").value_or(1);
  if (count <= 1) return Status::ok_status();
  const auto expected_first = split_part_path(path_, 1, count);
  if (!expected_first) {
    return make_error(
        ErrorCode::kCorruptData,
        "{}: 'split.count' says that this is one of {} files, but its name does not end in "
        "-00001-of-{:05}.gguf, so the others cannot be found; give it its original name",
        path_.string(), count, count);
  }
  const int64_t number = first.metadata.get_int("split.no").value_or(0);
  if (number != 0 || expected_first->filename() != path_.filename()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: this is file {} of a split set of {}; open the first one, {}",
                      path_.string(), number + 1, count, expected_first->string());
  }
  for (int64_t part = 2; part <= count; ++part) {
    const std::filesystem::path part_path = *split_part_path(path_, part, count);
    auto contents = add_file(part_path);
    if (contents.status().code() == ErrorCode::kNotFound) {
      return make_error(ErrorCode::kNotFound,
                        "{}: file {} of the split set of {} is missing; put it beside {}",
                        part_path.string(), part, count, path_.filename().string());
    }
    if (!contents.ok()) return contents.status();
    const int64_t part_number = contents->metadata.get_int("split.no").value_or(-1);
    const int64_t part_count = contents->metadata.get_int("split.count").value_or(-1);
    if (part_number != part - 1 || part_count != count) {
      return make_error(ErrorCode::kCorruptData,
                        "{}: expected split.no {} and split.count {}, found {} and {}; the files "
                        "are not of one set",
                        part_path.string(), part - 1, count, part_number, part_count);
    }
  }
  const auto total = first.metadata.get_int("split.tensors.count");
  if (total && *total != static_cast<int64_t>(places_.size())) {
    return make_error(ErrorCode::kCorruptData,
                      "{}: 'split.tensors.count' is {}, but the {} files hold {} tensors",
                      path_.string(), *total, count, places_.size());
  }
  return Status::ok_status();
}

Status GgufModel::open(const std::filesystem::path& path) {
  path_ = path;
  QUIPU_ASSIGN_OR_RETURN(GgufContents contents, add_file(path));
  QUIPU_RETURN_IF_ERROR(open_rest_of_split(contents));
  container_ = fmt::format("gguf v{}", contents.version);
  if (files_.size() > 1) container_ += fmt::format(", {} files", files_.size());
  metadata_ = std::move(contents.metadata);
  return Status::ok_status();
}

}  // namespace

Result<std::unique_ptr<ModelFile>> open_gguf_model(const std::filesystem::path& path) {
  auto model = std::make_unique<GgufModel>();
  QUIPU_RETURN_IF_ERROR(model->open(path));
  return std::unique_ptr<ModelFile>(std::move(model));
}

}  // namespace quipu
