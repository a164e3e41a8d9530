// serve(): a loaded model behind HTTP, until a signal says stop.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "app/assemble.h"
#include "server/access.h"
#include "server/http_server.h"

namespace quipu {

struct ServeOptions {
  HttpServerConfig http;
  std::vector<std::string> names;          // of the model, for clients; REQUIRES: not empty
  std::vector<ApiKey> api_keys;            // any of them opens the server; none: it is open
  bool open_metrics = false;               // /metrics needs no key
  bool allow_open = false;                 // other machines may use it without a key
  std::vector<std::string> allowed_hosts;  // names in the Host header beside loopback ones
  int parallel = 16;                       // requests computed at once
  int queue = 256;                         // requests that may wait for that
  std::chrono::milliseconds request_timeout{0};     // of every request; 0: none
  double pin_share = 0.5;                           // of the KV blocks that pins may hold
  std::chrono::milliseconds drain_timeout{30'000};  // for what runs when a signal comes
  std::string access_log;                           // a file, "-" for stderr, or nothing
};

// What can be known to be wrong before a model is loaded, which takes its time.
// ERRORS: kInvalidArgument for a host that is no address, and for one that others can reach,
// without a key and without allow_open; kIo when the port is taken or the log cannot be written.
Status check_serve_options(const ServeOptions& options);

// Serves on the calling thread until SIGINT or SIGTERM, then drains: no new connections, answers
// that are under way are finished, what is left after drain_timeout (or at a second signal) is
// cancelled. `on_ready` is called once it listens, with the address. A service manager that started it
// hears of both.
// ERRORS: as check_serve_options(); kUnsupported (a model without a vocabulary), kIo (cannot
// listen, or write the log).
Status serve(LoadedModel& model, const ServeOptions& options,
             const std::function<void(const std::string& address)>& on_ready);

}  // namespace quipu
