#include <algorithm>

#include "app/assemble.h"

namespace quipu {

namespace {

constexpr const char* kPrefix = "tokenizer.ggml.";
constexpr const char* kInputPrefix = "tokenizer.input.";  // of an encoder's own vocabulary

std::optional<TokenId> token_id(const Metadata& metadata, const std::string& prefix,
                                const char* name) {
  const std::optional<int64_t> id = metadata.get_int(prefix + name + "_token_id");
  if (!id.has_value() || *id < 0 || *id > INT32_MAX) return std::nullopt;
  return static_cast<TokenId>(*id);
}

// REQUIRES: prefix + "model" is there.
TokenizerSpec read_tokenizer_spec(const Metadata& metadata, const std::string& prefix) {
  const auto key = [&](const char* name) { return prefix + name; };
  TokenizerSpec spec;
  spec.model = metadata.get_string(key("model")).value_or("");
  spec.pre = metadata.get_string(key("pre")).value_or("");
  spec.tokens = metadata.get_strings(key("tokens")).value_or(std::vector<std::string>());
  spec.merges = metadata.get_strings(key("merges")).value_or(std::vector<std::string>());
  if (const auto scores = metadata.get_doubles(key("scores"))) {
    for (const double score : *scores) spec.scores.push_back(static_cast<float>(score));
  }
  if (const auto types = metadata.get_ints(key("token_type"))) {
    for (const int64_t type : *types) spec.token_types.push_back(static_cast<int32_t>(type));
  }
  spec.bos = token_id(metadata, prefix, "bos");
  spec.eos = token_id(metadata, prefix, "eos");
  spec.eot = token_id(metadata, prefix, "eot");
  spec.eom = token_id(metadata, prefix, "eom");
  spec.unknown = token_id(metadata, prefix, "unknown");
  spec.padding = token_id(metadata, prefix, "padding");
  spec.add_bos = metadata.get_bool(key("add_bos_token"));
  spec.add_eos = metadata.get_bool(key("add_eos_token"));
  spec.add_space_prefix = metadata.get_bool(key("add_space_prefix"));
  spec.remove_extra_whitespaces = metadata.get_bool(key("remove_extra_whitespaces"));
  if (const auto charsmap = metadata.get_ints(key("precompiled_charsmap"))) {
    for (const int64_t byte : *charsmap)
      spec.precompiled_charsmap.push_back(static_cast<char>(byte));
  }
  spec.chat_template = metadata.get_string("tokenizer.chat_template").value_or("");
  return spec;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const ModelFile& file,
                                                  const std::optional<std::string>& pre_override) {
  const std::string path = file.path().string();
  if (const auto directory = file.tokenizer_directory()) {
    Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::from_hf_directory(*directory);
    if (!tokenizer.ok()) return tokenizer.status().with_context(path);
    return tokenizer;
  }
  const std::string model = file.metadata().get_string("tokenizer.ggml.model").value_or("no_vocab");
  if (model == "no_vocab" || model == "none") return std::unique_ptr<Tokenizer>();
  TokenizerSpec spec = read_tokenizer_spec(file.metadata(), kPrefix);
  if (pre_override.has_value()) spec.pre = *pre_override;
  if (file.metadata().get_string("general.architecture") == "phi3")
    strip_after_specials_of_phi3(spec);
  Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::from_spec(std::move(spec));
  if (!tokenizer.ok()) return tokenizer.status().with_context(path);
  return tokenizer;
}

Result<std::unique_ptr<Tokenizer>> load_input_tokenizer(const ModelFile& file) {
  if (!file.metadata().contains(std::string(kInputPrefix) + "model"))
    return std::unique_ptr<Tokenizer>();
  Result<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::from_spec(read_tokenizer_spec(file.metadata(), kInputPrefix));
  if (!tokenizer.ok())
    return tokenizer.status().with_context(file.path().string() + ": input vocabulary");
  return tokenizer;
}

Result<MetadataEntries> tokenizer_metadata_for(const ModelFile& file) {
  MetadataEntries entries;
  const std::optional<std::filesystem::path> directory = file.tokenizer_directory();
  if (!directory.has_value()) return entries;
  const Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::from_hf_directory(*directory);
  if (tokenizer.status().code() == ErrorCode::kNotFound)
    return entries;  // a model without a vocabulary
  if (!tokenizer.ok()) return tokenizer.status();
  QUIPU_ASSIGN_OR_RETURN(const TokenizerSpec spec, (*tokenizer)->to_spec());
  const auto add = [&](const std::string& name, MetadataValue value) {
    entries.emplace_back(kPrefix + name, std::move(value));
  };
  add("model", spec.model);
  add("pre", spec.pre.empty() ? std::string("default") : spec.pre);
  add("tokens", spec.tokens);
  if (!spec.scores.empty())
    add("scores", std::vector<double>(spec.scores.begin(), spec.scores.end()));
  if (!spec.token_types.empty())
    add("token_type", std::vector<int64_t>(spec.token_types.begin(), spec.token_types.end()));
  if (!spec.merges.empty()) add("merges", spec.merges);
  const std::pair<const char*, std::optional<TokenId>> ids[] = {
      {"bos", spec.bos}, {"eos", spec.eos},         {"eot", spec.eot},
      {"eom", spec.eom}, {"unknown", spec.unknown}, {"padding", spec.padding}};
  for (const auto& [name, id] : ids) {
    if (id.has_value()) add(std::string(name) + "_token_id", static_cast<uint64_t>(*id));
  }
  const std::pair<const char*, std::optional<bool>> switches[] = {
      {"add_bos_token", spec.add_bos},
      {"add_eos_token", spec.add_eos},
      {"add_space_prefix", spec.add_space_prefix},
      {"remove_extra_whitespaces", spec.remove_extra_whitespaces}};
  for (const auto& [name, value] : switches) {
    if (value.has_value()) add(name, *value);
  }
  if (!spec.chat_template.empty())
    entries.emplace_back("tokenizer.chat_template", spec.chat_template);
  return entries;
}

Status require_tokenizer(const LoadedModel& model) {
  if (model.tokenizer != nullptr) return Status::ok_status();
  return make_error(
      ErrorCode::kUnsupported,
      "{}: this model has no vocabulary, so it takes no text; give token ids with --tokens 1,2,3",
      model.file->path().string());
}

}  // namespace quipu
