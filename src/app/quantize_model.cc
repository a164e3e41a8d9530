#include "app/quantize_model.h"

#include <system_error>

#include "base/units.h"
#include "format/gguf.h"
#include "format/weight_types.h"
#include "tensor/quantize.h"

namespace quipu {

namespace {

// The input's metadata without what describes the old file, with what describes the new one.
Metadata output_metadata(const ModelFile& in, const QuantizeOptions& options) {
  Metadata metadata;
  for (const auto& [key, value] : in.metadata().entries()) {
    const bool of_old_file = key.starts_with("split.") || key == "general.alignment" ||
                             key == "general.file_type" || key == "general.quantization_version";
    if (!of_old_file) metadata.set(key, value);
  }
  for (const auto& [key, value] : options.tokenizer_metadata) metadata.set(key, value);
  if (!metadata.contains("tokenizer.ggml.model")) {
    metadata.set("tokenizer.ggml.model", std::string("no_vocab"));  // other engines ask for it
  }
  metadata.set("general.quantization_version", uint64_t{2});
  metadata.set("general.file_type", gguf_file_type(options.type));
  return metadata;
}

std::vector<TensorInfo> output_tensors(const ModelFile& in, DType type) {
  const std::string architecture = in.metadata().get_string("general.architecture").value_or("");
  const QuantMix mix = {type, in.metadata().get_int(architecture + ".block_count").value_or(0),
                        in.find("output.weight") == nullptr};
  std::vector<TensorInfo> tensors;
  for (const TensorInfo& tensor : in.tensors()) {
    TensorInfo out = tensor;
    out.dtype = mixed_dtype(mix, tensor.name, tensor.shape);
    const auto columns = static_cast<size_t>(tensor.shape.back());
    out.bytes =
        static_cast<size_t>(element_count(tensor.shape)) / columns * row_bytes(out.dtype, columns);
    tensors.push_back(std::move(out));
  }
  return tensors;
}

Status convert_tensor(const ModelFile& in, const TensorInfo& tensor, int threads,
                      GgufWriter& writer) {
  QUIPU_ASSIGN_OR_RETURN(const TensorData data, in.read(tensor.name));
  if (data.view.dtype == tensor.dtype) {
    QUIPU_RETURN_IF_ERROR(writer.append(data.view.data));
  } else {
    const size_t bytes_per_row = row_bytes(tensor.dtype, static_cast<size_t>(data.view.columns()));
    QUIPU_RETURN_IF_ERROR(
        writer.append_rows(threads, [&](int64_t first, int64_t count, std::byte* out) {
          std::vector<float> values(static_cast<size_t>(data.view.columns()));
          for (int64_t row = first; row < first + count; ++row, out += bytes_per_row) {
            dequantize_row(data.view.dtype, data.view.row(row), values);
            quantize_row(tensor.dtype, values, out);
          }
        }));
  }
  in.release(tensor.name);
  return Status::ok_status();
}

}  // namespace

uint64_t gguf_file_bytes(const MetadataEntries& metadata, std::span<const TensorInfo> tensors) {
  uint64_t bytes = gguf_header(metadata, tensors).size();
  for (const TensorInfo& tensor : tensors) bytes += round_up(tensor.bytes, kGgufDefaultAlignment);
  return bytes;
}

Status check_room_for(const std::filesystem::path& out, uint64_t bytes) {
  std::error_code error;
  std::filesystem::path folder = out.parent_path();
  if (folder.empty()) folder = ".";
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error || space.available >= bytes) return Status::ok_status();
  return make_error(ErrorCode::kResourceExhausted,
                    "{}: needs {}, but the disk has {} free; free some room or write elsewhere",
                    out.string(), format_bytes(bytes), format_bytes(space.available));
}

Status quantize_model(const ModelFile& in, const std::filesystem::path& out,
                      const QuantizeOptions& options) {
  QUIPU_CHECK(options.threads >= 1, "{} threads", options.threads);
  const Metadata metadata = output_metadata(in, options);
  const std::vector<TensorInfo> tensors = output_tensors(in, options.type);
  const uint64_t bytes_total = gguf_file_bytes(metadata.entries(), tensors);
  QUIPU_RETURN_IF_ERROR(check_room_for(out, bytes_total));
  QUIPU_ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::create(out, metadata.entries(), tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    QUIPU_RETURN_IF_ERROR(convert_tensor(in, tensors[i], options.threads, writer));
    if (!options.progress) continue;
    const WriteProgress progress = {tensors[i].name, in.tensors()[i].dtype, tensors[i].dtype,
                                    i + 1,           tensors.size(),        writer.bytes_written(),
                                    bytes_total};
    if (!options.progress(progress))
      return make_error(ErrorCode::kCancelled, "{}: stopped; nothing was written", out.string());
  }
  return writer.finish();
}

}  // namespace quipu
