// The replies of /v1/chat/completions and /v1/completions.
// SOURCE: OpenAI's OpenAPI description, schemas CreateChatCompletionResponse,
// CreateChatCompletionStreamResponse, CreateCompletionResponse, CompletionUsage.
#include <algorithm>
#include <map>

#include "server/reply_format.h"

namespace quipu {

namespace {

constexpr float kLeastLogprob = -9999.0f;  // OpenAI's stand-in for minus infinity

Json finish_reason(const GenerationUpdate& update) {
  if (!update.end.has_value()) return nullptr;
  return std::string(finish_reason_name(update.end->finish));
}

Json bytes_of(std::string_view piece) {
  Json bytes = Json::array();
  for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

float finite(float logprob) { return std::max(logprob, kLeastLogprob); }

Json chat_logprob(const Tokenizer& tokenizer, const TokenLogprob& logprob) {
  const std::string_view piece = tokenizer.piece(logprob.id);
  return {{"token", std::string(piece)},
          {"logprob", finite(logprob.logprob)},
          {"bytes", bytes_of(piece)}};
}

Json chat_logprobs(const Tokenizer& tokenizer, const std::vector<TokenLogprobs>& logprobs) {
  Json content = Json::array();
  for (const TokenLogprobs& token : logprobs) {
    Json entry = chat_logprob(tokenizer, token.chosen);
    entry["top_logprobs"] = Json::array();
    for (const TokenLogprob& other : token.top)
      entry["top_logprobs"].push_back(chat_logprob(tokenizer, other));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

class OpenAiFormat : public ReplyFormat {
 public:
  explicit OpenAiFormat(ReplyContext context) : context_(std::move(context)) {}

  void add_end(const std::vector<Choice>& choices, std::string& events) override {
    if (context_.spec->include_usage) {
      Json chunk = head(stream_object());
      chunk["choices"] = Json::array();
      chunk["usage"] = usage_to_json(choices);
      add_event(chunk, events);
    }
    events += "data: [DONE]\n\n";
  }

  void add_error(const ApiError& error, std::string& events) override {
    add_event(error_to_json(error), events);
  }

 protected:
  virtual const char* stream_object() const = 0;

  Json head(const char* object) const {
    return {{"id", context_.id},
            {"object", object},
            {"created", context_.created_s},
            {"model", context_.model.name()}};
  }
  void add_chunk(Json choice, std::string& events) const {
    Json chunk = head(stream_object());
    chunk["choices"] = Json::array({std::move(choice)});
    if (context_.spec->include_usage) chunk["usage"] = nullptr;
    add_event(chunk, events);
  }
  bool wants_logprobs() const { return context_.spec->params.top_logprobs.has_value(); }
  const Tokenizer& tokenizer() const { return context_.model.tokenizer(); }

  const ReplyContext context_;
};

class ChatFormat : public OpenAiFormat {
 public:
  using OpenAiFormat::OpenAiFormat;

  void add_update(const Choice& choice, const GenerationUpdate& update,
                  std::string& events) override {
    if (update.started) {
      add_chunk(delta(choice, {{"role", "assistant"}, {"content", ""}}), events);
    }
    if (!update.text.empty() || !update.logprobs.empty()) {
      Json chunk = delta(choice, {{"content", update.text}});
      if (wants_logprobs()) chunk["logprobs"] = chat_logprobs(tokenizer(), update.logprobs);
      add_chunk(std::move(chunk), events);
    }
    if (update.end.has_value()) {
      Json chunk = delta(choice, Json::object());
      chunk["finish_reason"] = finish_reason(update);
      add_chunk(std::move(chunk), events);
    }
  }

  Json whole(const std::vector<Choice>& choices) override {
    Json reply = head("chat.completion");
    reply["choices"] = Json::array();
    for (const Choice& choice : choices) {
      reply["choices"].push_back(
          {{"index", choice.index},
           {"message", {{"role", "assistant"}, {"content", choice.all.text}, {"refusal", nullptr}}},
           {"logprobs",
            wants_logprobs() ? chat_logprobs(tokenizer(), choice.all.logprobs) : Json(nullptr)},
           {"finish_reason", finish_reason(choice.all)}});
    }
    reply["usage"] = usage_to_json(choices);
    return reply;
  }

 protected:
  const char* stream_object() const override { return "chat.completion.chunk"; }

 private:
  static Json delta(const Choice& choice, Json content) {
    return {{"index", choice.index},
            {"delta", std::move(content)},
            {"logprobs", nullptr},
            {"finish_reason", nullptr}};
  }
};

class CompletionFormat : public OpenAiFormat {
 public:
  using OpenAiFormat::OpenAiFormat;

  void add_update(const Choice& choice, const GenerationUpdate& update,
                  std::string& events) override {
    const std::string& prompt = context_.spec->prompts[choice.prompt].text;
    const std::string text =
        update.started && context_.spec->echo ? prompt + update.text : update.text;
    if (text.empty() && update.logprobs.empty() && !update.end.has_value()) return;
    add_chunk({{"index", choice.index},
               {"text", text},
               {"logprobs",
                wants_logprobs() ? logprobs(update.logprobs, choice.text_sent) : Json(nullptr)},
               {"finish_reason", finish_reason(update)}},
              events);
  }

  Json whole(const std::vector<Choice>& choices) override {
    Json reply = head("text_completion");
    reply["choices"] = Json::array();
    for (const Choice& choice : choices) {
      const std::string& prompt = context_.spec->prompts[choice.prompt].text;
      reply["choices"].push_back(
          {{"index", choice.index},
           {"text", context_.spec->echo ? prompt + choice.all.text : choice.all.text},
           {"logprobs", wants_logprobs() ? logprobs(choice.all.logprobs, 0) : Json(nullptr)},
           {"finish_reason", finish_reason(choice.all)}});
    }
    reply["usage"] = usage_to_json(choices);
    return reply;
  }

 protected:
  const char* stream_object() const override { return "text_completion"; }

 private:
  Json logprobs(const std::vector<TokenLogprobs>& all, size_t offset) const {
    Json tokens = Json::array(), chosen = Json::array(), top = Json::array();
    Json offsets = Json::array();
    for (const TokenLogprobs& token : all) {
      const std::string piece(tokenizer().piece(token.chosen.id));
      tokens.push_back(piece);
      chosen.push_back(finite(token.chosen.logprob));
      Json others = Json::object();
      for (const TokenLogprob& other : token.top)
        others[std::string(tokenizer().piece(other.id))] = finite(other.logprob);
      top.push_back(std::move(others));
      offsets.push_back(offset);
      offset += piece.size();
    }
    return {{"tokens", std::move(tokens)},
            {"token_logprobs", std::move(chosen)},
            {"top_logprobs", std::move(top)},
            {"text_offset", std::move(offsets)}};
  }
};

}  // namespace

void add_event(const Json& data, std::string& events) {
  events += "data: ";
  events += dump(data);
  events += "\n\n";
}

void add_typed_event(const Json& data, std::string& events) {
  events += "event: " + data["type"].get<std::string>() + "\n";
  add_event(data, events);
}

Json usage_to_json(const std::vector<Choice>& choices) {
  struct OfPrompt {
    int64_t tokens = 0, cached = 0;
  };
  std::map<size_t, OfPrompt> prompts;
  int64_t completion = 0;
  for (const Choice& choice : choices) {
    if (!choice.all.end.has_value()) continue;
    const RequestStats& stats = choice.all.end->stats;
    completion += stats.completion_tokens;
    // The choice that came first computed what the others of its prompt found.
    const auto [entry, is_new] =
        prompts.try_emplace(choice.prompt, OfPrompt{stats.prompt_tokens, stats.cached_tokens});
    if (!is_new) entry->second.cached = std::min(entry->second.cached, stats.cached_tokens);
  }
  OfPrompt all;
  for (const auto& [index, prompt] : prompts) {
    all.tokens += prompt.tokens;
    all.cached += prompt.cached;
  }
  return {{"prompt_tokens", all.tokens},
          {"completion_tokens", completion},
          {"total_tokens", all.tokens + completion},
          {"prompt_tokens_details", {{"cached_tokens", all.cached}}},
          {"completion_tokens_details", {{"reasoning_tokens", 0}}}};
}

std::unique_ptr<ReplyFormat> make_chat_format(ReplyContext context) {
  return std::make_unique<ChatFormat>(std::move(context));
}
std::unique_ptr<ReplyFormat> make_completion_format(ReplyContext context) {
  return std::make_unique<CompletionFormat>(std::move(context));
}

}  // namespace quipu
