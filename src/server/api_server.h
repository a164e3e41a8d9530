// ApiServer: which path answers what. OpenAI's paths under /v1, llama.cpp's beside them.
//
// What takes time (parsing, templates, tokenizing) runs on a work queue, what needs the engine's
// state between two of its steps; the server's thread only passes things on.
// THREADS: the server's thread calls; see members of Impl for the rest.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "app/engine_thread.h"
#include "server/access.h"
#include "server/http.h"
#include "server/served_model.h"

namespace quipu {

struct ApiServerConfig {
  // Names in the Host header that are answered beside loopback ones; nothing: any name. Guards a
  // server without keys against web pages that point a name of theirs at this machine.
  std::optional<std::vector<std::string>> allowed_hosts;
  int work_threads = 2;
  bool open_metrics = false;                     // /metrics needs no key
  std::chrono::milliseconds request_timeout{0};  // of every request; 0: none
};

class ApiServer : public HttpHandler {
 public:
  // OWNS: model and engine must outlive it.
  ApiServer(const ServedModel& model, EngineThread& engine, ApiKeys keys, AccessLog log,
            ApiServerConfig config);
  ~ApiServer() override;

  std::optional<HttpResponse> refuse(const HttpHead& head) override;
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override;
  HttpResponse protocol_error(int status, std::string_view what) override;

  // What it answers: (method, path); a path that ends with * stands for all that begin like it.
  static std::vector<std::pair<std::string, std::string>> routes();

  // /health says so from now on; new generations are refused by the engine thread.
  void drain();
  // Joins the work threads. Before the engine thread and the sockets end.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quipu
