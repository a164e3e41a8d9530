// quipu tokenize: text on standard input -> ids and pieces; --decode goes back.
#include <iostream>
#include <iterator>

#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/report.h"

namespace quipu {
namespace {

struct TokenizeFlags {
  std::filesystem::path model;
  std::optional<std::string> pre_tokenizer;
  OutputOptions output;
  bool no_special = false, no_parse_special = false, decode = false;
};

// Ids separated by commas or white space, with or without brackets, as `tokenize` prints them.
Result<std::vector<TokenId>> read_ids(std::string text) {
  for (char& c : text) {
    if (c == '[' || c == ']' || c == '\n' || c == '\t' || c == '\r') c = ' ';
  }
  std::string list;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = text.find_first_not_of(" ,", at);
    if (begin == std::string::npos) break;
    const size_t end = std::min(text.find_first_of(" ,", begin), text.size());
    list += (list.empty() ? "" : ",") + text.substr(begin, end - begin);
    at = end;
  }
  if (list.empty()) return std::vector<TokenId>();
  return parse_token_ids(list);
}

int decode_ids(const Tokenizer& tokenizer, const std::string& input, const TokenizeFlags& flags) {
  Result<std::vector<TokenId>> ids = read_ids(input);
  if (!ids.ok()) return report_error(ids.status());
  for (const TokenId id : *ids) {
    if (static_cast<int64_t>(id) < static_cast<int64_t>(tokenizer.vocab_size())) continue;
    return report_error(make_error(ErrorCode::kInvalidArgument,
                                   "token id {} is outside the vocabulary of {}", id,
                                   tokenizer.vocab_size()));
  }
  const std::string text = tokenizer.decode(*ids, {.skip_special = flags.no_special});
  if (flags.output.json) {
    print_json({{"text", text}});
  } else {
    print_out(text);
  }
  return kExitOk;
}

int tokenize_command(TokenizeFlags& flags) {
  const Result<std::filesystem::path> path = model_path_or_default(flags.model);
  if (!path.ok()) return report_error(path.status());
  const Result<std::unique_ptr<ModelFile>> file = open_model_file(*path);
  if (!file.ok()) return report_error(file.status());
  const Result<std::unique_ptr<Tokenizer>> tokenizer = load_tokenizer(**file, flags.pre_tokenizer);
  if (!tokenizer.ok()) return report_error(tokenizer.status());
  if (*tokenizer == nullptr) {
    return report_error(make_error(ErrorCode::kUnsupported, "{}: this model has no vocabulary",
                                   path->string()));
  }
  const Result<std::unique_ptr<Tokenizer>> own = load_input_tokenizer(**file);
  if (!own.ok()) return report_error(own.status());
  // A prompt is read by the encoder, where there is one with a vocabulary of its own.
  const Tokenizer& encoder = *own != nullptr ? **own : **tokenizer;
  const std::string input(std::istreambuf_iterator<char>(std::cin), {});
  if (flags.decode) return decode_ids(**tokenizer, input, flags);
  const Result<std::vector<TokenId>> ids = encoder.encode(
      input, {.add_special = !flags.no_special, .parse_special = !flags.no_parse_special});
  if (!ids.ok()) return report_error(ids.status());
  if (!flags.output.json) {
    print_out(join_ids(*ids) + "\n");
    return kExitOk;
  }
  nlohmann::ordered_json pieces = nlohmann::ordered_json::array();
  for (const TokenId id : *ids) pieces.push_back(std::string(encoder.piece(id)));
  print_json({{"ids", *ids}, {"pieces", pieces}});
  return kExitOk;
}

}  // namespace

void add_tokenize_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command =
      app.add_subcommand("tokenize", "Text on standard input to token ids, or back with --decode");
  command->add_option("-m,--model", flags->model,
                      "GGUF file or Hugging Face directory (default: the built-in model)");
  command->add_option("--pre-tokenizer", flags->pre_tokenizer,
                      "Use this pre-tokenizer instead of the file's");
  command->add_flag("--no-special", flags->no_special,
                    "Add no special tokens; with --decode, leave them out");
  command->add_flag("--no-parse-special", flags->no_parse_special,
                    "Treat the text of special tokens as plain text");
  command->add_flag("--decode", flags->decode, "Token ids on standard input to text");
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = tokenize_command(*flags); });
}

}  // namespace quipu
