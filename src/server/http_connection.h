// What a server's connections and its acceptor share.
// THREADS: the server's.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <unordered_set>

#include "server/call_lane.h"
#include "server/http_server.h"
#include "server/request_id.h"
#include "server/tls_context.h"

namespace quipu {

// One client's connection, as the server sees it. It owns itself, by what it waits for.
class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  // No further request after the current one.
  virtual void drain() = 0;
  // The client left, or is dropped.
  virtual void gone() = 0;
};

struct HttpServerState {
  HttpServerState(const HttpServerConfig& settings, HttpHandler& handles)
      : config(settings), handler(handles), acceptor(io), accept_pause(io), signals(io), lane(io) {}

  Status listen();
  Status load_tls();
  void accept();
  void accept_waiting();
  void wait_for_signal();

  const HttpServerConfig config;
  HttpHandler& handler;
  TlsContext tls;  // of new connections; null: plain HTTP
  // They register themselves; before io, which ends them.
  std::unordered_set<HttpConnection*> connections;
  boost::asio::io_context io{1};
  boost::asio::ip::tcp::acceptor acceptor;
  boost::asio::steady_timer accept_pause;
  boost::asio::signal_set signals;
  std::function<void(int)> on_signal;
  bool draining = false;
  RequestIds ids;
  CallLane lane;  // last: what its calls hold needs the rest
};

// Serves a client until it leaves.
void serve_connection(HttpServerState& server, boost::asio::ip::tcp::socket socket);

}  // namespace quipu
