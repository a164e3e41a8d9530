// HttpServer: HTTP/1.1 on one thread: keep-alive, limits, server-sent events, graceful draining.
//
// Everything a client can do is bounded: connections, bytes and time of a header, bytes and time of
// a body, of a TLS handshake, time without a request, time to take what was sent. A client that
// closes its connection, or only its sending side, while an answer is under way counts as gone.
// THREADS: run() is the server's thread; post(), stop() from any.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/http.h"

namespace quipu {

struct HttpServerConfig {
  std::string host = "127.0.0.1";  // an address, or "localhost"
  uint16_t port = 8080;            // 0: a free one
  // PEM files: both, for HTTPS, or none. Read again on SIGHUP, for connections from then on; without
  // them SIGHUP changes nothing.
  std::string certificate_file, key_file;
  int connections_max = 4096;
  uint32_t header_bytes_max = 32 * 1024;
  uint64_t body_bytes_max = 16 * 1024 * 1024;
  size_t unsent_bytes_max = 64 * 1024;  // of a stream, beyond which it is not writable
  // What the system may hold of a connection's unsent bytes; left to itself it takes megabytes for
  // a client that does not read. The system doubles it for its own bookkeeping.
  int send_buffer_bytes = 256 * 1024;
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{60'000};
  std::chrono::milliseconds idle_timeout{75'000};   // between two requests
  std::chrono::milliseconds write_timeout{30'000};  // for 64 KiB; more bytes get more time
  std::chrono::milliseconds ping_interval{15'000};  // 0: no pings
};

struct HttpServerState;  // http_server.cc: sockets and timers

class HttpServer {
 public:
  // Binds and listens; from now on SIGINT and SIGTERM wait for run(). OWNS: nothing given; the
  // handler must outlive the server.
  // ERRORS: kInvalidArgument (no such address), kIo (in use, not allowed) with what to do; as
  // check_tls().
  static Result<std::unique_ptr<HttpServer>> create(const HttpServerConfig& config,
                                                    HttpHandler& handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Where it listens, such as "127.0.0.1:8080" or "[::1]:8080".
  std::string address() const;
  uint16_t port() const;
  bool is_loopback() const;

  // Serves until stop(). `on_signal` is called on SIGINT and SIGTERM.
  void run(std::function<void(int signal)> on_signal);

  // No new connections; connections without a request close, the others after their answer.
  // THREADS: the server's.
  void drain();
  // Open connections. THREADS: the server's.
  int connections() const;
  // Calls back on the server's thread. THREADS: the server's.
  void after(std::chrono::milliseconds delay, std::function<void()> call);

  void post(std::function<void()> call);
  void stop();

 private:
  explicit HttpServer(std::unique_ptr<HttpServerState> state);

  std::unique_ptr<HttpServerState> state_;
};

// Whether a server could listen now. ERRORS: as HttpServer::create().
Status check_can_listen(const HttpServerConfig& config);

// Whether the configuration's certificate and key can be served with, if it names any.
// ERRORS: kInvalidArgument (one without the other), and as load_tls_context().
Status check_tls(const HttpServerConfig& config);

// ERRORS: kInvalidArgument when `host` is neither an address nor "localhost".
Status check_host(const std::string& host);

// Whether `host` names this machine alone: 127.0.0.0/8, ::1, localhost.
bool is_loopback_host(const std::string& host);

}  // namespace quipu
