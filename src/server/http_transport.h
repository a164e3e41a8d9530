// HttpTransport: a client's socket, with TLS or without: what a connection reads and writes.
// THREADS: the server's.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <optional>
#include <utility>

#include "server/tls_context.h"

namespace quipu {

class HttpTransport {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using executor_type = Socket::executor_type;  // the name that Asio's operations look for

  // `tls`: null for plain HTTP.
  HttpTransport(Socket socket, TlsContext tls) : socket_(std::move(socket)), tls_(std::move(tls)) {
    if (tls_ != nullptr) stream_.emplace(socket_, *tls_);
  }

  bool is_tls() const { return stream_.has_value(); }
  Socket& socket() { return socket_; }
  executor_type get_executor() { return socket_.get_executor(); }

  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    if (is_tls()) {
      stream_->async_read_some(buffers, std::forward<Handler>(handler));
    } else {
      socket_.async_read_some(buffers, std::forward<Handler>(handler));
    }
  }

  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    if (is_tls()) {
      stream_->async_write_some(buffers, std::forward<Handler>(handler));
    } else {
      socket_.async_write_some(buffers, std::forward<Handler>(handler));
    }
  }

  // REQUIRES: is_tls().
  template <typename Handler>
  void async_handshake(Handler&& handler) {
    stream_->async_handshake(boost::asio::ssl::stream_base::server, std::forward<Handler>(handler));
  }

  // Goes on in plain bytes. REQUIRES: nothing is outstanding.
  void drop_tls() { stream_.reset(); }

  // Tells the client, in the words of TLS, that nothing more will come, and waits until it says the
  // same, leaves, or sends something else. SOURCE: RFC 8446, section 6.1. REQUIRES: is_tls(); no
  // write is outstanding.
  template <typename Handler>
  void async_close_notify(Handler&& handler) {
    stream_->async_shutdown(std::forward<Handler>(handler));
  }

 private:
  Socket socket_;
  TlsContext tls_;
  std::optional<boost::asio::ssl::stream<Socket&>> stream_;  // after socket_: refers to it
};

}  // namespace quipu
