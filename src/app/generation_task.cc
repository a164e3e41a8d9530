#include "app/generation_task.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "app/output_constraint.h"

namespace quipu {

void GenerationUpdate::append(GenerationUpdate&& later) {
  started = started || later.started;
  if (later.progress.has_value()) progress = later.progress;
  text += later.text;
  append_pieces(pieces, std::move(later.pieces));
  token_ids.insert(token_ids.end(), later.token_ids.begin(), later.token_ids.end());
  std::move(later.logprobs.begin(), later.logprobs.end(), std::back_inserter(logprobs));
  if (later.end.has_value()) end = std::move(later.end);
}

GenerationTask::GenerationTask(const LoadedModel& model, RequestId id,
                               const GenerationParams& params)
    : id_(id), params_(params), config_(model.model->config()), stops_(params.stop) {
  if (model.tokenizer == nullptr) return;
  tokenizer_ = model.tokenizer.get();
  decoder_.emplace(*model.tokenizer, StreamDecoder::Start::kContinuation,
                   DecodeOptions{.skip_special = params.skip_special});
  if (params.layout.has_value()) {
    QUIPU_CHECK(params.skip_special,
                "parts of an output cannot be told where all tokens are shown");
    const OutputLayout& layout = *params.layout;
    parser_.emplace(layout);
    if (layout.calls.has_value()) control_marks_ = layout.calls->control_marks();
    if (layout.thinking.has_value())
      control_marks_.insert(control_marks_.end(), {layout.thinking->begin, layout.thinking->end});
  }
  if (!params.ignore_eos)
    stop_tokens_.assign(model.tokenizer->eos_ids().begin(), model.tokenizer->eos_ids().end());
}

Result<Request> GenerationTask::make_request(std::vector<TokenId> prompt) {
  Request request;
  request.id = id_;
  set_prompt(config_, std::move(prompt), request);
  request.sampling = params_.sampling;
  request.max_tokens = params_.max_tokens;
  request.stop_tokens = stop_tokens_;
  request.explain_cache = params_.explain_cache;
  request.explain_salts = params_.explain_salts;
  request.cache_salt = params_.cache_salt;
  if (params_.constraint != nullptr) {
    QUIPU_CHECK(tokenizer_ != nullptr, "a constraint on a model without a tokenizer");
    Result<std::shared_ptr<TokenConstraint>> constraint =
        OutputConstraint::start(*params_.constraint, *tokenizer_);
    if (!constraint.ok()) return constraint.status();
    request.constraint = std::move(*constraint);
  }
  if (params_.hash_logits || params_.top_logprobs.has_value()) {
    request.logits_wanted = LogitsWanted::kSampled;
    request.on_logits = [this](int64_t, std::span<const float> logits) { observe(logits); };
  }
  return request;
}

void GenerationTask::observe(std::span<const float> logits) {
  if (params_.hash_logits)
    logits_hash_ = XXH3_64bits_withSeed(logits.data(), logits.size_bytes(), logits_hash_);
  if (params_.top_logprobs.has_value()) rows_.emplace_back(logits.begin(), logits.end());
}

TokenLogprobs GenerationTask::logprobs_of(TokenId chosen, std::span<const float> row) const {
  const float largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit) - largest);
  const double log_sum = static_cast<double>(largest) + std::log(sum);
  const auto logprob = [&](TokenId id) {
    return TokenLogprob{id, static_cast<float>(row[static_cast<size_t>(id)] - log_sum)};
  };
  TokenLogprobs result{logprob(chosen), {}};
  const size_t count = std::min(static_cast<size_t>(*params_.top_logprobs), row.size());
  if (count == 0) return result;
  std::vector<TokenId> ids(row.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(),
                    [&](TokenId a, TokenId b) {
                      const float x = row[static_cast<size_t>(a)];
                      const float y = row[static_cast<size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  for (size_t i = 0; i < count; ++i) result.top.push_back(logprob(ids[i]));
  return result;
}

// The text that a token adds. Control tokens are left out, but those that mark the parts of an
// output: as the parser reads them.
std::string GenerationTask::text_of(TokenId token) {
  std::string text = decoder_->push(token);
  const auto mark = std::find_if(control_marks_.begin(), control_marks_.end(),
                                 [&](const OutputMark& other) { return other.token == token; });
  return mark == control_marks_.end() ? text : text + quipu::text_of(*mark);
}

void GenerationTask::take(const StepEvent& event, GenerationUpdate& update) {
  QUIPU_CHECK(!ended_, "request {} had its end already", id_.value());
  std::vector<float> row;
  if (event.token.has_value() && params_.top_logprobs.has_value()) {
    QUIPU_CHECK(!rows_.empty(), "a token of request {} without its logits", id_.value());
    row = std::move(rows_.front());
    rows_.pop_front();
  }
  if (event.token.has_value() && !stops_.stopped()) {
    update.token_ids.push_back(*event.token);
    if (params_.top_logprobs.has_value()) update.logprobs.push_back(logprobs_of(*event.token, row));
    if (decoder_.has_value()) {
      std::string delta = stops_.push(text_of(*event.token));
      if (parser_.has_value()) {
        thinking_tokens_ += parser_->is_thinking() ? 1 : 0;
        parser_->push(delta, update.pieces);
        std::erase(delta, kControlByte);
      }
      update.text += delta;
    }
  }
  if (event.finish == FinishReason::kNone) return;
  ended_ = true;
  if (decoder_.has_value() && !stops_.stopped()) {
    std::string rest = stops_.push(decoder_->finish()) + stops_.finish();
    if (parser_.has_value()) parser_->push(rest, update.pieces);
    std::erase(rest, kControlByte);
    update.text += rest;
  }
  if (parser_.has_value()) parser_->finish(update.pieces);
  Status status = Status::ok_status();
  if (event.finish == FinishReason::kConstraint && !stops_.stopped())
    status = event.failure.with_context("the output could not go on under its constraint");
  update.end = GenerationEnd{.status = std::move(status),
                             .finish = stops_.stopped() ? FinishReason::kStop : event.finish,
                             .stop_string = stops_.stopped_by(),
                             .thinking_tokens = thinking_tokens_,
                             .stats = event.stats};
}

}  // namespace quipu
