// HTTP as the rest of the server sees it: plain requests in, replies out, no socket in sight.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quipu {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// A request's first part, known before its body is read.
struct HttpHead {
  std::string id;       // of this request, for logs and the X-Request-Id header
  std::string method;   // as sent, such as "POST"
  std::string path;     // without the query, as sent
  std::string query;    // after '?', as sent
  HttpHeaders headers;  // names in lower case, in order
  bool has_body = false;

  // The first header of this (lower case) name; empty when there is none.
  std::string_view header(std::string_view name) const;
};

struct HttpRequest : HttpHead {
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;
};

// The answer to one request: a whole response, or a stream.
//
// Unsent bytes are bounded by the writer's good behaviour: write() while writable(), then wait for
// on_writable. A client that takes too long to read is dropped (HttpServerConfig::write_timeout).
// THREADS: the server's thread, but for post().
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  // The whole answer. REQUIRES: nothing was sent before.
  virtual void send(HttpResponse response) = 0;

  // Begins a stream of server-sent events. `ping` is sent whenever nothing else was for a while.
  virtual void begin_events(HttpHeaders headers, std::string ping) = 0;
  virtual void write(std::string_view data) = 0;
  virtual bool writable() const = 0;
  virtual void end() = 0;

  // Called when the unsent bytes went out after writable() was false.
  virtual void on_writable(std::function<void()> call) = 0;
  // Called once when the client went away, or was dropped, before the answer was complete.
  virtual void on_gone(std::function<void()> call) = 0;
  // The client has gone, or the answer is complete: whatever is sent goes nowhere.
  virtual bool closed() const = 0;

  // Runs `call` on the server's thread. THREADS: any.
  virtual void post(std::function<void()> call) = 0;
  // The same, once `delay` has passed.
  virtual void post_after(std::chrono::milliseconds delay, std::function<void()> call) = 0;
};

// What a server does with requests. THREADS: called on the server's thread; must not block.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Looks at a request before its body is read; an answer ends it there.
  virtual std::optional<HttpResponse> refuse(const HttpHead& head) = 0;
  // Answers through `reply`, now or later. Shared: an answer outlives this call and the connection.
  virtual void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) = 0;
  // The answer to what is not HTTP, too large or too slow. `status`: 400, 408, 413, 431, 503.
  virtual HttpResponse protocol_error(int status, std::string_view what) = 0;
};

// Whether an Accept-Encoding header takes this coding: named, or covered by "*", and not with q=0.
// SOURCE: RFC 9110, section 12.5.3.
bool accepts_coding(std::string_view header, std::string_view coding);

// "%2F" and the like as the bytes they stand for; text that is no such code stays as it is.
std::string percent_decoded(std::string_view text);

// The standard's words, such as "Not Found".
std::string_view http_reason(int status);

}  // namespace quipu
