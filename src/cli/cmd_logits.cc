// quipu logits: the logits after given tokens, for tests and other tools.
#include <openssl/evp.h>

#include <algorithm>
#include <numeric>

#include "cli/commands.h"
#include "cli/flags.h"

namespace quipu {
namespace {

struct LogitsFlags {
  ModelOptions model;
  OutputOptions output;
  std::string tokens;
  bool all = false;
  int top = 0;
};

std::string to_base64(std::span<const float> values) {
  const size_t bytes = values.size_bytes();
  std::string text(4 * ((bytes + 2) / 3) + 1, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(values.data()),
                                     static_cast<int>(bytes));
  text.resize(static_cast<size_t>(length));
  return text;
}

// The ids of the largest logits, best first, the lower id among equals.
std::vector<TokenId> top_ids(std::span<const float> logits, int count) {
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto better = [&](TokenId a, TokenId b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const size_t kept = std::min(ids.size(), static_cast<size_t>(count));
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(kept), ids.end(), better);
  ids.resize(kept);
  return ids;
}

nlohmann::ordered_json top_to_json(std::span<const float> logits, int count,
                                   const Tokenizer* tokenizer) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const TokenId id : top_ids(logits, count)) {
    nlohmann::ordered_json entry = {{"id", id}, {"logit", logits[static_cast<size_t>(id)]}};
    if (tokenizer != nullptr) entry["piece"] = std::string(tokenizer->piece(id));
    list.push_back(std::move(entry));
  }
  return list;
}

// Runs the tokens once and collects the wanted rows. SHAPE: [rows * vocab].
Result<std::vector<float>> compute_logits(LoadedModel& model, std::vector<TokenId> tokens,
                                          bool all) {
  std::vector<float> rows;
  Request request;
  request.id = RequestId(1);
  set_prompt(model.model->config(), std::move(tokens), request);
  request.logits_wanted = all ? LogitsWanted::kAll : LogitsWanted::kSampled;
  request.on_logits = [&rows](int64_t, std::span<const float> logits) {
    rows.insert(rows.end(), logits.begin(), logits.end());
  };
  QUIPU_RETURN_IF_ERROR(model.engine->submit(std::move(request)));
  while (model.engine->has_work()) model.engine->step();
  return rows;
}

int logits_command(LogitsFlags& flags) {
  Result<std::vector<TokenId>> tokens = parse_token_ids(flags.tokens);
  if (!tokens.ok()) return report_error(tokens.status());
  Result<std::unique_ptr<LoadedModel>> loaded = load_for_command(flags.model, flags.output);
  if (!loaded.ok()) return report_error(loaded.status());
  LoadedModel& model = **loaded;
  const Result<std::vector<float>> logits = compute_logits(model, *tokens, flags.all);
  if (!logits.ok()) return report_error(logits.status());

  const size_t vocab = static_cast<size_t>(model.model->config().vocab_size);
  const size_t rows = logits->size() / vocab;
  const std::span<const float> last = std::span(*logits).last(vocab);
  if (flags.output.json) {
    nlohmann::ordered_json object = {{"shape", {rows, vocab}}, {"logits_b64", to_base64(*logits)}};
    if (!flags.all) object["shape"] = {vocab};
    if (flags.top > 0) object["top"] = top_to_json(last, flags.top, model.tokenizer.get());
    print_json(object);
    return kExitOk;
  }
  for (const TokenId id : top_ids(last, flags.top > 0 ? flags.top : 10)) {
    const std::string piece =
        model.tokenizer != nullptr
            ? nlohmann::json(std::string(model.tokenizer->piece(id)))
                  .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
            : "";
    print_out(fmt::format("{:8} {:12.6f}  {}\n", id, last[static_cast<size_t>(id)], piece));
  }
  return kExitOk;
}

}  // namespace

void add_logits_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* command = app.add_subcommand("logits", "The logits that follow given tokens");
  command->add_option("--tokens", flags->tokens, "Token ids, such as 1,2,3")->required();
  command->add_flag("--all", flags->all, "Every position, not only the last");
  command->add_option("--top", flags->top, "Also list the K largest of the last position")
      ->check(CLI::NonNegativeNumber);
  add_model_flags(*command, flags->model);
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = logits_command(*flags); });
}

}  // namespace quipu
