// Who is answered when, where many ask at once. Everything is sent before the server's loop begins,
// so that nothing depends on how fast anybody is.
#include "server/http_server.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

namespace quipu {
namespace {

// Takes kWork over what has a body, and notes in which order the requests came to it.
class SlowHandler : public HttpHandler {
 public:
  static constexpr std::chrono::milliseconds kWork{2};

  std::optional<HttpResponse> refuse(const HttpHead&) override { return std::nullopt; }
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override {
    order.push_back(request.path);
    if (request.has_body) std::this_thread::sleep_for(kWork);
    HttpResponse response;
    response.body = request.path;
    reply->send(std::move(response));
  }
  HttpResponse protocol_error(int status, std::string_view) override {
    HttpResponse response;
    response.status = status;
    return response;
  }

  std::vector<std::string> order;
};

class Client {
 public:
  Client(uint16_t port, const std::string& request) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(send(socket_, request.data(), request.size(), 0), std::ssize(request));
  }
  Client(Client&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}
  ~Client() {
    if (socket_ >= 0) close(socket_);
  }

  // Everything until the server closes.
  std::string answer() {
    std::string all;
    char piece[4096];
    for (ssize_t count = 0; (count = recv(socket_, piece, sizeof piece, 0)) > 0;)
      all.append(piece, static_cast<size_t>(count));
    return all;
  }

 private:
  int socket_;
};

std::string get(const std::string& path, const char* connection = "close") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: {}\r\n\r\n", path,
                     connection);
}
std::string post(const std::string& path) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}",
      path);
}

class HttpServerTest : public testing::Test {
 protected:
  void SetUp() override {
    HttpServerConfig config;
    config.port = 0;
    Result<std::unique_ptr<HttpServer>> created = HttpServer::create(config, handler_);
    ASSERT_TRUE(created.ok()) << created.status().message();
    server_ = std::move(*created);
  }
  void ask(const std::string& request) { clients_.emplace_back(server_->port(), request); }
  // Runs the server until every client has its answer. SHAPE: result: as the clients.
  std::vector<std::string> answers() {
    std::thread loop([this] { server_->run([](int) {}); });
    std::vector<std::string> all;
    for (Client& client : clients_) all.push_back(client.answer());
    server_->stop();
    loop.join();
    return all;
  }
  std::ptrdiff_t place_of(const std::string& path) const {
    return std::find(handler_.order.begin(), handler_.order.end(), path) - handler_.order.begin();
  }

  SlowHandler handler_;
  std::unique_ptr<HttpServer> server_;
  std::vector<Client> clients_;
};

TEST_F(HttpServerTest, AProbeThatComesLastDoesNotWaitForAllThatCameBefore) {
  constexpr int kRequests = 200;
  for (int i = 0; i < kRequests; ++i) ask(post(fmt::format("/{}", i)));
  ask(get("/health"));
  const std::vector<std::string> all = answers();
  for (const std::string& answer : all) EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK"));
  ASSERT_EQ(handler_.order.size(), kRequests + 1u);
  // One of the others in each turn of the loop, and a few turns to accept and read it.
  EXPECT_LT(place_of("/health"), 10);
  // They, too, are served in the order in which they came.
  std::erase(handler_.order, "/health");
  for (int i = 0; i < kRequests; ++i)
    EXPECT_EQ(handler_.order[static_cast<size_t>(i)], fmt::format("/{}", i));
}

TEST_F(HttpServerTest, ProbesWithoutEndKeepNoRequestWaiting) {
  constexpr int kProbes = 100;
  for (int client = 0; client < 4; ++client) {
    std::string probes;
    for (int i = 1; i < kProbes; ++i) probes += get("/health", "keep-alive");
    ask(probes + get("/health"));
  }
  ask(post("/first"));
  ask(post("/second"));
  answers();
  ASSERT_EQ(handler_.order.size(), 4 * kProbes + 2u);
  EXPECT_LT(place_of("/first"), kProbes);
  EXPECT_LT(place_of("/second"), kProbes);
}

}  // namespace
}  // namespace quipu
