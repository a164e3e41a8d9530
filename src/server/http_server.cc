#include "server/http_server.h"

#include <sys/resource.h>

#include <boost/asio/post.hpp>
#include <csignal>
#include <cstdio>

#include "server/http_connection.h"

namespace quipu {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptPause{100};
// At about 15 us each: few enough not to be felt by those who are being served.
constexpr int kAcceptsPerTurn = 128;

void log_note(const std::string& text) { std::fprintf(stderr, "quipu: %s\n", text.c_str()); }

// As many files as the system allows: each connection is one.
void raise_open_files_limit() {
  struct rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

Result<asio::ip::address> address_of(const std::string& host) {
  error_code error;
  const asio::ip::address address =
      asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'{}' is not an address; give one such as 127.0.0.1, 0.0.0.0 or ::1", host);
  }
  return address;
}

Status open_listener(const HttpServerConfig& config, tcp::acceptor& acceptor) {
  QUIPU_ASSIGN_OR_RETURN(const asio::ip::address address, address_of(config.host));
  const tcp::endpoint endpoint(address, config.port);
  error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) acceptor.non_blocking(true, error);
  if (!error) return Status::ok_status();
  return make_error(ErrorCode::kIo, "cannot listen on {}:{}: {}{}", config.host, config.port,
                    error.message(),
                    error == asio::error::address_in_use ? "; choose another --port" : "");
}

// Null for plain HTTP.
Result<TlsContext> tls_of(const HttpServerConfig& config) {
  if (config.certificate_file.empty() && config.key_file.empty()) return TlsContext();
  if (config.certificate_file.empty() || config.key_file.empty()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "HTTPS needs both --ssl-cert-file and --ssl-key-file; {} is missing",
                      config.key_file.empty() ? "--ssl-key-file" : "--ssl-cert-file");
  }
  return load_tls_context(config.certificate_file, config.key_file);
}

}  // namespace

Status check_can_listen(const HttpServerConfig& config) {
  asio::io_context io;
  tcp::acceptor acceptor(io);
  return open_listener(config, acceptor);
}

Status check_tls(const HttpServerConfig& config) { return tls_of(config).status(); }

Status check_host(const std::string& host) { return address_of(host).status(); }

bool is_loopback_host(const std::string& host) {
  const Result<asio::ip::address> address = address_of(host);
  return address.ok() && address->is_loopback();
}

Status HttpServerState::listen() { return open_listener(config, acceptor); }

Status HttpServerState::load_tls() {
  QUIPU_ASSIGN_OR_RETURN(TlsContext loaded, tls_of(config));
  tls = std::move(loaded);
  return Status::ok_status();
}

void HttpServerState::accept() {
  acceptor.async_wait(tcp::acceptor::wait_read, [this](error_code error) {
    if (!draining && error != asio::error::operation_aborted) accept_waiting();
  });
}

// Takes the connections that wait, and not one in each turn of the loop: who came last would wait
// for as many turns as others came before.
void HttpServerState::accept_waiting() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    error_code error;
    tcp::socket socket = acceptor.accept(error);
    if (error == asio::error::would_block || error == asio::error::try_again) break;
    if (error == asio::error::connection_aborted) continue;  // left before it was taken
    if (!error) {
      serve_connection(*this, std::move(socket));
      continue;
    }
    // Out of files or memory: those who are being served give some back.
    accept_pause.expires_after(kAcceptPause);
    return accept_pause.async_wait([this](error_code stopped) {
      if (!stopped && !draining) accept();
    });
  }
  accept();
}

void HttpServerState::wait_for_signal() {
  signals.async_wait([this](error_code error, int signal) {
    if (error) return;
    if (signal == SIGHUP && tls == nullptr) {
      log_note("SIGHUP: there is no certificate to read again; nothing changed");
    } else if (signal == SIGHUP) {
      const Status status = load_tls();
      log_note(status.ok() ? "the certificate was read again"
                           : status.message() + "; the certificate from before stays");
    } else {
      on_signal(signal);
    }
    wait_for_signal();
  });
}

HttpServer::HttpServer(std::unique_ptr<HttpServerState> state) : state_(std::move(state)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::create(const HttpServerConfig& config,
                                                       HttpHandler& handler) {
  raise_open_files_limit();
  auto state = std::make_unique<HttpServerState>(config, handler);
  QUIPU_RETURN_IF_ERROR(state->load_tls());
  QUIPU_RETURN_IF_ERROR(state->listen());
  // Before anybody hears that it is ready: a signal that comes then must not kill it.
  state->signals.add(SIGINT);
  state->signals.add(SIGTERM);
  state->signals.add(SIGHUP);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

std::string HttpServer::address() const {
  const tcp::endpoint endpoint = state_->acceptor.local_endpoint();
  const std::string host = endpoint.address().to_string();
  return fmt::format(fmt::runtime(endpoint.address().is_v6() ? "[{}]:{}" : "{}:{}"), host,
                     endpoint.port());
}

uint16_t HttpServer::port() const { return state_->acceptor.local_endpoint().port(); }
bool HttpServer::is_loopback() const {
  return state_->acceptor.local_endpoint().address().is_loopback();
}

void HttpServer::run(std::function<void(int)> on_signal) {
  state_->on_signal = std::move(on_signal);
  state_->wait_for_signal();
  state_->accept();
  state_->io.run();
  // Whoever still waits for an answer hears that it will not come.
  const std::vector<HttpConnection*> open(state_->connections.begin(), state_->connections.end());
  for (HttpConnection* connection : open) connection->gone();
}

void HttpServer::drain() {
  state_->draining = true;
  error_code ignored;
  state_->acceptor.close(ignored);
  state_->accept_pause.cancel();
  const std::vector<HttpConnection*> open(state_->connections.begin(), state_->connections.end());
  for (HttpConnection* connection : open) connection->drain();
}

int HttpServer::connections() const { return static_cast<int>(state_->connections.size()); }

void HttpServer::after(std::chrono::milliseconds delay, std::function<void()> call) {
  auto timer = std::make_shared<asio::steady_timer>(state_->io, delay);  // shared: with its handler
  timer->async_wait([timer, call = std::move(call)](error_code error) {
    if (!error) call();
  });
}

void HttpServer::post(std::function<void()> call) { asio::post(state_->io, std::move(call)); }
void HttpServer::stop() { state_->io.stop(); }

}  // namespace quipu
