// GenerationCall: one HTTP request that generates: submits its choices to the engine thread, tells
// their updates as the client can take them, and cancels them when the client leaves.
//
// Nothing is sent before the engine took the first choice, so that a refusal is a plain HTTP error.
// A stream takes updates from the outboxes only while the connection is writable; a slow client's
// updates join up there.
// THREADS: the server's thread; the engine thread only wakes it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "app/engine_thread.h"
#include "server/reply_format.h"

namespace quipu {

// 504: a request's deadline passed. 429: too many run and wait.
ApiError deadline_exceeded(const RequestStats& stats);
ApiError queue_full(const EngineThreadConfig& config);

class GenerationCall : public std::enable_shared_from_this<GenerationCall> {
 public:
  // What came of it, for the log.
  struct Outcome {
    int status = 200;
    std::string finish;  // a finish reason, or why there is none
    // Tokens of all choices together; times and reuse of the first. finished_ns is 0 when none ended.
    RequestStats stats;
  };

  // Lives until the answer is complete or the client has gone; then calls `done` once.
  // OWNS: the engine must outlive it.
  static void start(EngineThread& engine, std::shared_ptr<HttpReply> reply,
                    std::shared_ptr<const GenerationSpec> spec, std::unique_ptr<ReplyFormat> format,
                    std::function<void(const Outcome&)> done);

 private:
  GenerationCall(EngineThread& engine, std::shared_ptr<HttpReply> reply,
                 std::shared_ptr<const GenerationSpec> spec, std::unique_ptr<ReplyFormat> format,
                 std::function<void(const Outcome&)> done);

  void submit();
  void pump();
  void take(Choice& choice, GenerationUpdate&& update);
  void begin_stream();
  void refuse(const ApiError& error);
  void finish();
  void gone();
  void cancel_all();
  void report(int status, std::string finish);

  EngineThread& engine_;
  std::shared_ptr<HttpReply> reply_;
  std::shared_ptr<const GenerationSpec> spec_;
  std::unique_ptr<ReplyFormat> format_;
  std::function<void(const Outcome&)> done_;
  std::vector<std::shared_ptr<GenerationOutbox>> outboxes_;  // SHAPE: as choices_; shared with asks
  std::vector<RequestId> ids_;
  std::vector<Choice> choices_;
  std::string events_;
  int ended_ = 0;
  bool streaming_ = false;
  bool over_ = false;
};

}  // namespace quipu
