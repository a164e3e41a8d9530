#include "server/http_connection.h"

#include <array>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include "server/http_transport.h"

namespace quipu {

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;

constexpr size_t kReadAhead =
    16 * 1024;  // of requests that a client sends before it has its answer
constexpr size_t kReadPiece = 4096;
constexpr milliseconds kLingerTime{2000};
constexpr uint64_t kBytesPerExtraSecond = 64 * 1024;

// The Date header's value. SOURCE: RFC 9110, section 5.6.7.
std::string http_date(std::time_t time) {
  std::tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 40> text{};
  const size_t size = std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text.data(), size};
}

class Connection;

// One request's answer. Detached from its connection when complete or gone.
class Exchange : public HttpReply {
 public:
  Exchange(std::shared_ptr<Connection> connection, HttpServerState& server)
      : connection_(std::move(connection)), server_(server) {}

  void send(HttpResponse response) override;
  void begin_events(HttpHeaders headers, std::string ping) override;
  void write(std::string_view data) override;
  bool writable() const override;
  void end() override;
  void on_writable(std::function<void()> call) override { on_writable_ = std::move(call); }
  void on_gone(std::function<void()> call) override { on_gone_ = std::move(call); }
  bool closed() const override { return connection_ == nullptr; }
  void post(std::function<void()> call) override { server_.lane.add(std::move(call)); }

  void post_after(milliseconds delay, std::function<void()> call) override {
    auto timer =
        std::make_shared<asio::steady_timer>(server_.io, delay);  // shared: with its handler
    timer->async_wait([timer, call = std::move(call)](error_code error) {
      if (!error) call();
    });
  }

  void notify_writable() {
    const std::function<void()> call = on_writable_;  // it may end the exchange
    if (call) call();
  }
  // The answer is complete, or nobody waits for it.
  void detach(bool gone) {
    connection_.reset();
    on_writable_ = nullptr;
    const std::function<void()> call = std::exchange(on_gone_, nullptr);
    if (gone && call) call();
  }

 private:
  std::shared_ptr<Connection> connection_;  // until the answer is complete
  HttpServerState& server_;
  std::function<void()> on_writable_, on_gone_;
};

// A connection: requests one after the other, each answered before the next is read.
//
//   (handshake ->) idle -> header -> body -> handling -> idle ...      or: any -> lingering ->
//   closed
//
// While a request is handled, a read is outstanding all the same: it sees the client go away, and
// keeps the beginning of a request that was sent ahead.
class Connection : public HttpConnection, public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServerState& server, tcp::socket socket)
      : server_(server),
        transport_(std::move(socket), server.tls),
        deadline_(server.io),
        ping_timer_(server.io) {
    server_.connections.insert(this);
  }
  ~Connection() override { server_.connections.erase(this); }

  void start() {
    error_code ignored;
    transport_.socket().set_option(tcp::no_delay(true), ignored);
    transport_.socket().set_option(tcp::socket::send_buffer_size(server_.config.send_buffer_bytes),
                                   ignored);
    const bool too_many =
        static_cast<int>(server_.connections.size()) > server_.config.connections_max;
    // The answer would need a handshake, which is what there is no room for.
    if (too_many && transport_.is_tls()) return close();
    if (too_many) return refuse(503, "too many connections");
    if (!transport_.is_tls()) return await_request(server_.config.header_timeout);
    state_ = State::kHandshake;
    arm_deadline(server_.config.header_timeout);
    transport_.async_handshake(
        [self = shared_from_this()](error_code error) { self->on_handshake(error); });
  }

  void drain() override {
    if (state_ == State::kIdle || state_ == State::kHandshake) close();
  }

  void respond(const HttpResponse& response) {
    begin_head(response.status, response.content_type, response.headers);
    // A 304 has no body, and a length would be that of the body it stands for (RFC 9110, 15.4.5).
    if (response.status != 304)
      unsent_ += "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
    unsent_ += "\r\n";
    if (!is_head_) unsent_ += response.body;
    complete_ = true;
    flush();
  }

  void begin_events(const HttpHeaders& headers, std::string ping) {
    chunked_ = !is_http10_;
    if (!chunked_) keep_alive_ = false;  // the end of the connection is the end of the stream
    begin_head(200, "text/event-stream", headers);
    unsent_ += "Cache-Control: no-store\r\n";
    if (chunked_) unsent_ += "Transfer-Encoding: chunked\r\n";
    unsent_ += "\r\n";
    ping_ = std::move(ping);
    arm_ping();
    flush();
  }

  void write(std::string_view data) {
    if (data.empty() || is_head_) return;
    if (chunked_) unsent_ += fmt::format("{:x}\r\n", data.size());
    unsent_ += data;
    if (chunked_) unsent_ += "\r\n";
    wrote_since_ping_ = true;
    flush();
  }

  void end() {
    if (chunked_) unsent_ += "0\r\n\r\n";
    complete_ = true;
    flush();
    if (sending_.empty() && state_ == State::kHandling) finish_exchange();
  }

  bool writable() const {
    return unsent_.size() + sending_.size() < server_.config.unsent_bytes_max;
  }

  void gone() override {
    const std::shared_ptr<Connection> self = shared_from_this();
    const std::shared_ptr<Exchange> lost = std::exchange(exchange_, nullptr);
    close();
    if (lost != nullptr) lost->detach(/*gone=*/true);
  }

 private:
  enum class State { kHandshake, kIdle, kHeader, kBody, kHandling, kLingering, kClosed };

  void on_handshake(error_code error) {
    if (state_ != State::kHandshake) return;
    if (!error) return await_request(server_.config.header_timeout);
    if (!is_plain_http(error)) return close();
    transport_.drop_tls();
    refuse(400, "this port speaks HTTPS, and the request came in plain HTTP; use https://");
  }

  // ---- reading

  void await_request(milliseconds patience) {
    state_ = State::kIdle;
    const bool sent_ahead = input_.size() > 0;
    if (sent_ahead && !watching_) return read_header();
    arm_deadline(sent_ahead ? server_.config.header_timeout : patience);
    error_code ignored;
    if (sent_ahead) transport_.socket().cancel(ignored);  // on_watched() goes on
    watch();
  }

  // Keeps one small read outstanding.
  void watch() {
    if (watching_ || input_.size() >= kReadAhead) return;
    watching_ = true;
    transport_.async_read_some(input_.prepare(kReadPiece),
                               [self = shared_from_this()](error_code error, size_t count) {
                                 self->watching_ = false;
                                 self->on_watched(error, count);
                               });
  }

  void on_watched(error_code error, size_t count) {
    if (state_ == State::kClosed) return;
    const bool sent_ahead = state_ == State::kIdle && input_.size() > 0;
    if (error == asio::error::operation_aborted && sent_ahead) return read_header();
    if (state_ == State::kLingering && transport_.is_tls()) return linger_on();
    if (error) return gone();
    if (state_ == State::kLingering) return watch();  // discarded
    input_.commit(count);
    if (state_ == State::kIdle) return read_header();
    watch();
  }

  void read_header() {
    state_ = State::kHeader;
    parser_.emplace();
    parser_->header_limit(server_.config.header_bytes_max);
    parser_->body_limit(server_.config.body_bytes_max);
    arm_deadline(server_.config.header_timeout);
    http::async_read_header(
        transport_, input_, *parser_,
        [self = shared_from_this()](error_code error, size_t) { self->on_header(error); });
  }

  void on_header(error_code error) {
    if (state_ != State::kHeader) return;
    if (error) return on_read_error(error);
    take_head();
    if (server_.draining) keep_alive_ = false;
    if (std::optional<HttpResponse> answer = server_.handler.refuse(head_)) {
      if (!parser_->is_done()) keep_alive_ = false;  // its body will not be read
      begin_exchange();
      return exchange_->send(std::move(*answer));
    }
    state_ = State::kBody;
    if (parser_->is_done()) return dispatch();
    arm_deadline(server_.config.body_timeout);
    const bool waits = boost::beast::iequals(parser_->get()[http::field::expect], "100-continue");
    if (!waits || parser_->is_done()) return read_body();
    asio::async_write(transport_, asio::buffer(kContinue),
                      [self = shared_from_this()](error_code failed, size_t) {
                        if (self->state_ != State::kBody) return;
                        if (failed) return self->gone();
                        self->read_body();
                      });
  }

  void take_head() {
    const auto& message = parser_->get();
    head_ = {};
    head_.method = std::string(message.method_string());
    const std::string target(message.target());
    const size_t mark = std::min(target.find('?'), target.size());
    head_.path = target.substr(0, mark);
    if (mark < target.size()) head_.query = target.substr(mark + 1);
    for (const auto& field : message) {
      std::string name(field.name_string());
      std::transform(name.begin(), name.end(), name.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      head_.headers.emplace_back(std::move(name), std::string(field.value()));
    }
    head_.has_body = !parser_->is_done();
    head_.id = id_ = server_.ids.next(head_.header("x-request-id"));
    keep_alive_ = parser_->keep_alive();
    is_http10_ = message.version() < 11;
    is_head_ = head_.method == "HEAD";
  }

  void read_body() {
    http::async_read(transport_, input_, *parser_,
                     [self = shared_from_this()](error_code error, size_t) {
                       if (self->state_ != State::kBody) return;
                       if (error) return self->on_read_error(error);
                       self->dispatch();
                     });
  }

  void dispatch() {
    HttpRequest request;
    static_cast<HttpHead&>(request) = std::move(head_);
    request.body = std::move(parser_->get().body());
    parser_.reset();
    const bool has_body = request.has_body;
    begin_exchange();
    if (!has_body) return server_.handler.handle(std::move(request), exchange_);
    server_.lane.add(
        [&handler = server_.handler, request = std::move(request), exchange = exchange_]() mutable {
          handler.handle(std::move(request), std::move(exchange));
        });
  }

  void begin_exchange() {
    state_ = State::kHandling;
    disarm_deadline();
    complete_ = chunked_ = false;
    exchange_ = std::make_shared<Exchange>(shared_from_this(), server_);
    watch();
  }

  void on_read_error(error_code error) {
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      return refuse(
          431, fmt::format("the header is larger than {} bytes", server_.config.header_bytes_max));
    if (error == http::error::body_limit)
      return refuse(413,
                    fmt::format("the body is larger than {} bytes", server_.config.body_bytes_max));
    // The client left, or the system closed the connection: nobody reads an answer.
    if (error == http::error::end_of_stream || error == http::error::partial_message ||
        error.category() != make_error_code(http::error::bad_method).category())
      return close();
    refuse(400, fmt::format("this is not HTTP/1.1: {}", error.message()));
  }

  // Answers a request that was not understood, and closes.
  void refuse(int status, std::string_view what) {
    keep_alive_ = false;
    is_head_ = false;
    if (id_.empty()) id_ = server_.ids.next({});
    begin_exchange();
    exchange_->send(server_.handler.protocol_error(status, what));
  }

  // ---- writing

  void begin_head(int status, const std::string& content_type, const HttpHeaders& headers) {
    unsent_ += fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\n", status, http_reason(status),
                           content_type);
    for (const auto& [name, value] : headers) unsent_ += name + ": " + value + "\r\n";
    unsent_ += "Date: " + http_date(std::time(nullptr)) + "\r\n";
    unsent_ += "X-Request-Id: " + id_ + "\r\n";
    unsent_ += "X-Content-Type-Options: nosniff\r\n";
    if (server_.draining) keep_alive_ = false;
    unsent_ += keep_alive_ ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  }

  void flush() {
    if (!sending_.empty() || unsent_.empty() || state_ == State::kClosed) return;
    sending_.swap(unsent_);
    arm_deadline(server_.config.write_timeout +
                 milliseconds(static_cast<int64_t>(1000 * sending_.size() / kBytesPerExtraSecond)));
    asio::async_write(
        transport_, asio::buffer(sending_),
        [self = shared_from_this()](error_code error, size_t) { self->on_written(error); });
  }

  void on_written(error_code error) {
    if (state_ == State::kClosed) return;
    disarm_deadline();
    const bool was_writable = writable();
    sending_.clear();
    if (error) return gone();
    if (!unsent_.empty()) flush();
    if (complete_ && sending_.empty()) return finish_exchange();
    if (!was_writable && writable() && exchange_ != nullptr) exchange_->notify_writable();
  }

  void finish_exchange() {
    ping_timer_.cancel();
    if (const std::shared_ptr<Exchange> done = std::exchange(exchange_, nullptr))
      done->detach(/*gone=*/false);
    parser_.reset();
    head_ = {};
    id_.clear();
    if (keep_alive_ && !server_.draining) return await_request(server_.config.idle_timeout);
    linger();
  }

  // Lets the client read the answer before the connection goes: closing with unread input would
  // make the system throw the answer away. SOURCE: RFC 9112, section 9.6.
  void linger() {
    state_ = State::kLingering;
    input_.clear();
    arm_deadline(kLingerTime);
    if (!transport_.is_tls()) return discard();
    transport_.async_close_notify([self = shared_from_this()](error_code) {
      self->close_notified_ = true;
      self->linger_on();
    });
  }

  // With TLS: the words of its end went out. What the client still sends is no more of its concern.
  void linger_on() {
    if (state_ != State::kLingering || !close_notified_) return;
    error_code ignored;
    if (watching_) {  // on_watched() comes back here
      transport_.socket().cancel(ignored);
      return;
    }
    transport_.drop_tls();
    discard();
  }

  void discard() {
    error_code ignored;
    transport_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    watch();
  }

  void close() {
    state_ = State::kClosed;
    disarm_deadline();
    ping_timer_.cancel();
    error_code ignored;
    transport_.socket().close(ignored);
  }

  // ---- time

  void arm_deadline(milliseconds patience) {
    deadline_.expires_after(patience);
    deadline_.async_wait(
        [self = shared_from_this(), serial = ++deadline_serial_](error_code error) {
          if (!error && serial == self->deadline_serial_) self->on_deadline();
        });
  }

  void disarm_deadline() {
    ++deadline_serial_;
    deadline_.cancel();
  }

  void on_deadline() {
    if (state_ == State::kHeader || state_ == State::kBody) {
      // The read that is outstanding must not meet the answer's: end it with the input side.
      error_code ignored;
      const State late = state_;
      state_ = State::kHandling;
      transport_.socket().cancel(ignored);
      asio::post(server_.io, [self = shared_from_this(), late] {
        self->refuse(
            408, late == State::kHeader ? "the header took too long" : "the body took too long");
      });
      return;
    }
    gone();  // no handshake, idle too long, or it does not read what it asked for
  }

  void arm_ping() {
    if (server_.config.ping_interval.count() == 0 || ping_.empty()) return;
    wrote_since_ping_ = false;
    ping_timer_.expires_after(server_.config.ping_interval);
    ping_timer_.async_wait([self = shared_from_this()](error_code error) {
      if (error || self->exchange_ == nullptr || self->complete_) return;
      if (!self->wrote_since_ping_ && self->writable()) self->write(self->ping_);
      self->arm_ping();
    });
  }

  static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

  HttpServerState& server_;
  HttpTransport transport_;
  asio::steady_timer deadline_, ping_timer_;
  uint64_t deadline_serial_ = 0;
  State state_ = State::kIdle;
  boost::beast::flat_buffer input_;
  bool watching_ = false, close_notified_ = false;
  std::optional<http::request_parser<http::string_body>> parser_;
  HttpHead head_;
  std::string id_;
  bool keep_alive_ = false, is_http10_ = false, is_head_ = false;
  std::shared_ptr<Exchange> exchange_;
  std::string unsent_, sending_;
  bool chunked_ = false, complete_ = false, wrote_since_ping_ = false;
  std::string ping_;
};

void Exchange::send(HttpResponse response) {
  if (const auto connection = connection_) connection->respond(response);
}
void Exchange::begin_events(HttpHeaders headers, std::string ping) {
  if (const auto connection = connection_) connection->begin_events(headers, std::move(ping));
}
void Exchange::write(std::string_view data) {
  if (const auto connection = connection_) connection->write(data);
}
bool Exchange::writable() const { return connection_ == nullptr || connection_->writable(); }
void Exchange::end() {
  if (const auto connection = connection_) connection->end();
}

}  // namespace

void serve_connection(HttpServerState& server, tcp::socket socket) {
  std::make_shared<Connection>(server, std::move(socket))->start();
}

}  // namespace quipu
