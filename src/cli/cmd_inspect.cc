// quipu inspect: what a model file holds, and what its keys and values will cost.
#include <map>

#include "base/units.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "engine/engine.h"
#include "model/architecture.h"

namespace quipu {
namespace {

struct InspectFlags {
  std::filesystem::path model;
  OutputOptions output;
  std::optional<KvFormats> kv_format;  // shown beside the formats for all layers
  bool tensors = false;
};

constexpr size_t kShownElements = 6;  // of an array, for people

template <typename T>
nlohmann::ordered_json array_to_json(const std::vector<T>& values, size_t shown) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < std::min(values.size(), shown); ++i)
    list.push_back(static_cast<T>(values[i]));
  return list;
}

// Long arrays are given by their length and their first elements.
nlohmann::ordered_json value_to_json(const MetadataValue& value) {
  return std::visit(
      [](const auto& held) -> nlohmann::ordered_json {
        if constexpr (requires {
                        held.begin();
                        typename std::decay_t<decltype(held)>::allocator_type;
                      } && !std::is_same_v<std::decay_t<decltype(held)>, std::string>) {
          if (held.size() <= 64) return array_to_json(held, held.size());
          return {{"length", held.size()}, {"first", array_to_json(held, kShownElements)}};
        } else {
          return held;
        }
      },
      value);
}

struct Summary {
  int64_t parameters = 0;
  uint64_t bytes = 0;
  std::map<std::string, int> tensors_by_type;
};

Summary summarise(const ModelFile& file) {
  Summary summary;
  for (const TensorInfo& tensor : file.tensors()) {
    summary.parameters += element_count(tensor.shape);
    summary.bytes += tensor.bytes;
    ++summary.tensors_by_type[std::string(dtype_name(tensor.dtype))];
  }
  return summary;
}

// KV bytes per token by format; empty when the architecture is not one quipu runs.
// ERRORS: kInvalidArgument: a format names a layer that the model has not.
Result<nlohmann::ordered_json> kv_to_json(const ModelFile& file,
                                          const std::optional<KvFormats>& wanted) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  const Result<const Architecture*> architecture = find_architecture(file.metadata());
  if (!architecture.ok()) return object;
  const Result<ModelConfig> config = (*architecture)->read_config(file.metadata());
  if (!config.ok()) return object;
  std::vector<KvFormats> choices(kKvFormats.begin(), kKvFormats.end());
  if (wanted.has_value()) choices.push_back(*wanted);
  for (const KvFormats& format : choices) {
    QUIPU_RETURN_IF_ERROR(format.check(config->block_count));
    const KvCacheSpec spec = kv_cache_spec_for(*config, format, kDefaultBlockTokens);
    nlohmann::ordered_json groups = nlohmann::ordered_json::array();
    for (const KvGroupSpec& group : spec.groups) {
      groups.push_back({{"layers", group.layers.size()},
                        {"window", group.lifetime.window},
                        {"bytes_per_token", group.bytes_per_token()},
                        {"block_bytes", group.block_bytes}});
    }
    // Windowed layers hold their window and the block it ends in, never more.
    object[format.to_string()] = {
        {"bytes_per_token", spec.bytes_per_token()},
        {"block_tokens", spec.block_tokens},
        {"block_bytes", spec.block_bytes()},
        {"context_bytes", spec.sequence_bytes(config->context_length, 1)},
        {"groups", groups},
    };
    if (!config->encoder_decoder) continue;
    const KvCacheSpec inputs = input_kv_spec_for(*config, format, kDefaultBlockTokens);
    object[format.to_string()].update(
        {{"input_bytes_per_token", inputs.bytes_per_token()},
         {"input_context_bytes", inputs.sequence_bytes(config->context_length, 1)}});
  }
  return object;
}

std::string why_no_kv(const ModelFile& file) {
  const std::string name = file.metadata().get_string("general.architecture").value_or("");
  if (!is_encoder_only(name)) return "this architecture is not one that quipu runs.";
  return find_architecture(file.metadata()).status().message();
}

void print_inspection_json(const ModelFile& file, const nlohmann::ordered_json& kv) {
  const Summary summary = summarise(file);
  nlohmann::ordered_json metadata = nlohmann::ordered_json::object();
  for (const auto& [key, value] : file.metadata().entries()) metadata[key] = value_to_json(value);
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const TensorInfo& tensor : file.tensors()) {
    tensors.push_back({{"name", tensor.name},
                       {"type", dtype_name(tensor.dtype)},
                       {"shape", tensor.shape},
                       {"bytes", tensor.bytes}});
  }
  print_json({{"path", file.path().string()},
              {"container", file.container()},
              {"parameters", summary.parameters},
              {"bytes", summary.bytes},
              {"metadata", metadata},
              {"tensors", tensors},
              {"kv", kv}});
}

void print_inspection_text(const ModelFile& file, const nlohmann::ordered_json& kv,
                           bool all_tensors) {
  const Summary summary = summarise(file);
  print_out(fmt::format("{}\n  {}, {} tensors, {:.1f} M parameters, {}\n", file.path().string(),
                        file.container(), file.tensors().size(),
                        static_cast<double>(summary.parameters) * 1e-6,
                        format_bytes(summary.bytes)));
  std::string types;
  for (const auto& [name, count] : summary.tensors_by_type)
    types += fmt::format("{}{} x {}", types.empty() ? "" : ", ", count, name);
  print_out("  " + types + "\n\nMetadata\n");
  for (const auto& [key, value] : file.metadata().entries()) {
    std::string text =
        value_to_json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text.size() > 100) text = text.substr(0, valid_utf8_prefix(text.substr(0, 97))) + "...";
    print_out(fmt::format("  {:44} {}\n", key, text));
  }
  print_out(kv.empty() ? "\nKV cache: " + why_no_kv(file) + "\n" : "\nKV cache\n");
  for (const auto& [format, sizes] : kv.items()) {
    print_out(fmt::format("  {:6} {:>10} per token, {:>10} for the whole context\n", format,
                          format_bytes(sizes["bytes_per_token"].get<uint64_t>()),
                          format_bytes(sizes["context_bytes"].get<uint64_t>())));
    if (sizes.contains("input_bytes_per_token")) {
      print_out(fmt::format("  {:6} {:>10} per token of an encoded input, once; {} at most\n", "",
                            format_bytes(sizes["input_bytes_per_token"].get<uint64_t>()),
                            format_bytes(sizes["input_context_bytes"].get<uint64_t>())));
    }
    if (format != kv_format_name(KvFormat::kBF16)) continue;
    for (const nlohmann::ordered_json& group : sizes["groups"]) {
      const int window = group["window"].get<int>();
      if (window > 0) {
        print_out(fmt::format("         {} layers see {} tokens and keep no more\n",
                              group["layers"].get<size_t>(), window));
      }
    }
  }
  if (!all_tensors) {
    print_out("\nAll tensors: --tensors\n");
    return;
  }
  print_out("\nTensors\n");
  for (const TensorInfo& tensor : file.tensors()) {
    print_out(fmt::format("  {:36} {:6} {:20} {}\n", tensor.name, dtype_name(tensor.dtype),
                          shape_to_string(tensor.shape), format_bytes(tensor.bytes)));
  }
}

int inspect_command(InspectFlags& flags) {
  const Result<std::filesystem::path> path = model_path_or_default(flags.model);
  if (!path.ok()) return report_error(path.status());
  const Result<std::unique_ptr<ModelFile>> file = open_model_file(*path);
  if (!file.ok()) return report_error(file.status());
  const Result<nlohmann::ordered_json> kv = kv_to_json(**file, flags.kv_format);
  if (!kv.ok()) return report_error(kv.status());
  if (flags.output.json) {
    print_inspection_json(**file, *kv);
  } else {
    print_inspection_text(**file, *kv, flags.tensors);
  }
  return kExitOk;
}

}  // namespace

void add_inspect_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command =
      app.add_subcommand("inspect", "Metadata, tensors and KV bytes per token of a model file");
  command->add_option("-m,--model,MODEL", flags->model,
                      "GGUF file or Hugging Face directory (default: the built-in model)");
  command->add_flag("--tensors", flags->tensors, "List every tensor");
  add_kv_format_flag(*command, [flags](KvFormats formats) { flags->kv_format = formats; });
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = inspect_command(*flags); });
}

}  // namespace quipu
