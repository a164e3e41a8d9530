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
    std::vector<OutputPiece> pieces = pieces_of(context_, update);
    // A place for log probabilities whose text is still held back.
    if (pieces.empty() && !update.logprobs.empty())
      pieces.push_back({OutputPiece::Kind::kContent, ""});
    bool first = true;
    for (const OutputPiece& piece : pieces) {
      Json chunk = delta(choice, piece_delta(piece, choice.index));
      if (first && wants_logprobs())
        chunk["logprobs"] = chat_logprobs(tokenizer(), update.logprobs);
      first = false;
      add_chunk(std::move(chunk), events);
    }
    if (update.end.has_value()) {
      Json chunk = delta(choice, Json::object());
      chunk["finish_reason"] = chat_finish(update, calls_[choice.index] > 0);
      add_chunk(std::move(chunk), events);
    }
  }

  Json whole(const std::vector<Choice>& choices) override {
    Json reply = head("chat.completion");
    reply["choices"] = Json::array();
    for (const Choice& choice : choices) {
      const OutputMessage output = message_of(context_, choice.all, "call_", choice.index);
      reply["choices"].push_back(
          {{"index", choice.index},
           {"message", message_to_json(output)},
           {"logprobs",
            wants_logprobs() ? chat_logprobs(tokenizer(), choice.all.logprobs) : Json(nullptr)},
           {"finish_reason", chat_finish(choice.all, !output.calls.empty())}});
    }
    reply["usage"] = usage_to_json(choices);
    return reply;
  }

 protected:
  const char* stream_object() const override { return "chat.completion.chunk"; }

 private:
  // An output that ended by itself and has calls ended because of them.
  static Json chat_finish(const GenerationUpdate& update, bool has_calls) {
    const bool stopped = update.end->finish == FinishReason::kStop;
    return has_calls && stopped ? Json("tool_calls") : finish_reason(update);
  }

  static Json message_to_json(const OutputMessage& output) {
    const bool only_calls = output.content.empty() && !output.calls.empty();
    Json message = {{"role", "assistant"},
                    {"content", only_calls ? Json(nullptr) : Json(output.content)},
                    {"refusal", nullptr}};
    if (!output.thinking.empty()) message["reasoning_content"] = output.thinking;
    for (const OutputMessage::Call& call : output.calls) {
      message["tool_calls"].push_back(
          {{"id", call.id},
           {"type", "function"},
           {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    }
    return message;
  }

  Json piece_delta(const OutputPiece& piece, int choice) {
    switch (piece.kind) {
      case OutputPiece::Kind::kThinking: return {{"reasoning_content", piece.text}};
      case OutputPiece::Kind::kContent: return {{"content", piece.text}};
      case OutputPiece::Kind::kCall: {
        const size_t index = calls_[choice]++;
        Json call = {{"index", index},
                     {"id", call_id("call_", context_.id, choice, index)},
                     {"type", "function"},
                     {"function", {{"name", piece.text}, {"arguments", ""}}}};
        return {{"tool_calls", Json::array({std::move(call)})}};
      }
      case OutputPiece::Kind::kArguments: {
        Json call = {{"index", calls_[choice] - 1}, {"function", {{"arguments", piece.text}}}};
        return {{"tool_calls", Json::array({std::move(call)})}};
      }
    }
    return Json::object();
  }

  static Json delta(const Choice& choice, Json content) {
    return {{"index", choice.index},
            {"delta", std::move(content)},
            {"logprobs", nullptr},
            {"finish_reason", nullptr}};
  }

  std::map<int, size_t> calls_;  // told so far in a stream, by choice
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

std::vector<OutputPiece> pieces_of(const ReplyContext& context, const GenerationUpdate& update) {
  if (context.spec->params.layout.has_value() || update.text.empty()) return update.pieces;
  return {{OutputPiece::Kind::kContent, update.text}};
}

std::string call_id(std::string_view prefix, const std::string& reply_id, int choice, size_t call) {
  return fmt::format("{}{}_{}_{}", prefix, reply_id.substr(reply_id.find_first_of("-_") + 1),
                     choice, call);
}

OutputMessage message_of(const ReplyContext& context, const GenerationUpdate& all,
                         std::string_view prefix, int choice) {
  OutputMessage message;
  for (const OutputPiece& piece : pieces_of(context, all)) {
    switch (piece.kind) {
      case OutputPiece::Kind::kThinking: message.thinking += piece.text; break;
      case OutputPiece::Kind::kContent: message.content += piece.text; break;
      case OutputPiece::Kind::kCall:
        message.calls.push_back(
            {call_id(prefix, context.id, choice, message.calls.size()), piece.text, ""});
        break;
      case OutputPiece::Kind::kArguments: message.calls.back().arguments += piece.text; break;
    }
  }
  return message;
}

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
  int64_t completion = 0, thinking = 0;
  for (const Choice& choice : choices) {
    if (!choice.all.end.has_value()) continue;
    const RequestStats& stats = choice.all.end->stats;
    completion += stats.completion_tokens;
    thinking += choice.all.end->thinking_tokens;
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
          {"completion_tokens_details", {{"reasoning_tokens", thinking}}}};
}

std::unique_ptr<ReplyFormat> make_chat_format(ReplyContext context) {
  return std::make_unique<ChatFormat>(std::move(context));
}
std::unique_ptr<ReplyFormat> make_completion_format(ReplyContext context) {
  return std::make_unique<CompletionFormat>(std::move(context));
}

}  // namespace quipu
