// Any bytes on a connection: the server answers or closes, and goes on.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <thread>

#include "server/http_server.h"

namespace quipu {
namespace {

// Answers at once: whole, as a stream to paths under /events, and not at all to /refused.
class Echo : public HttpHandler {
 public:
  std::optional<HttpResponse> refuse(const HttpHead& head) override {
    if (head.path != "/refused") return std::nullopt;
    return HttpResponse{.status = 403, .body = "{}", .headers = {}};
  }
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override {
    if (!request.path.starts_with("/events"))
      return reply->send({.body = std::move(request.body), .headers = {}});
    reply->begin_events({}, ": ping\n\n");
    reply->write("data: " + request.path + "\n\n");
    reply->end();
  }
  HttpResponse protocol_error(int status, std::string_view what) override {
    return {.status = status, .body = std::string(what), .headers = {}};
  }
};

struct Running {
  Running() : server(HttpServer::create(config(), echo).value()) {
    std::thread([this] { server->run([](int) {}); }).detach();  // until the process ends
  }
  static HttpServerConfig config() {
    HttpServerConfig config;
    config.port = 0;
    config.header_bytes_max = 2048;
    config.body_bytes_max = 4096;
    return config;
  }
  Echo echo;
  std::unique_ptr<HttpServer> server;
};

// Sends all of it, says that no more will come, and returns all that came back.
std::string exchange(uint16_t port, const uint8_t* data, size_t size) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  QUIPU_CHECK(socket >= 0, "no socket");
  const timeval patience{.tv_sec = 30, .tv_usec = 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  QUIPU_CHECK(connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
              "the server does not listen any more");
  // The server may close at any byte.
  while (size > 0) {
    const ssize_t sent = send(socket, data, size, MSG_NOSIGNAL);
    if (sent <= 0) break;
    data += sent;
    size -= static_cast<size_t>(sent);
  }
  shutdown(socket, SHUT_WR);
  std::string answer;
  std::array<char, 4096> piece;
  ssize_t count = 0;
  while ((count = recv(socket, piece.data(), piece.size(), 0)) > 0)
    answer.append(piece.data(), static_cast<size_t>(count));
  QUIPU_CHECK(count == 0 || errno == ECONNRESET, "the connection stayed open");
  close(socket);
  return answer;
}

}  // namespace
}  // namespace quipu

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quipu;
  static Running& running = *std::make_unique<Running>().release();  // its thread never ends
  const std::string answer = exchange(running.server->port(), data, size);
  QUIPU_CHECK(answer.empty() || answer.starts_with("HTTP/1.1 "), "an answer that is not HTTP");
  return 0;
}
