// quipu serve: a model behind HTTP, for OpenAI's and llama.cpp's clients.
#include <algorithm>
#include <sstream>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "server/serve.h"

namespace quipu {
namespace {

constexpr uint64_t kKeyFileBytesMax = 1024 * 1024;
constexpr double kDecodeStretch = 2;

struct ServeFlags {
  ModelOptions model;
  OutputOptions output;
  ServeOptions serve;
  std::vector<std::string> aliases;  // each may hold several, separated by commas
  std::vector<std::string> api_keys, operator_keys;
  std::string api_key_file;
  std::string log = "-";
  int port = 8080;
  double read_timeout_s = 10, write_timeout_s = 30, ping_interval_s = 15, drain_timeout_s = 30;
  double request_timeout_s = 0;
  uint64_t body_bytes_max = 8 * kMiB;
};

std::chrono::milliseconds to_ms(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    while (!part.empty() && std::isspace(static_cast<unsigned char>(part.back()))) part.pop_back();
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

// One key per line, with its tenant and role (ApiKey::parse); lines that begin with # are comments.
Status add_keys_of_file(const std::string& path, std::vector<ApiKey>& keys) {
  QUIPU_ASSIGN_OR_RETURN(const std::string text, read_file(path, kKeyFileBytesMax));
  const size_t before = keys.size();
  std::istringstream stream(text);
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos || line[begin] == '#') continue;
    Result<ApiKey> key = ApiKey::parse(line);
    if (!key.ok())
      return key.status().with_context(fmt::format("--api-key-file: {}, line {}", path, number));
    keys.push_back(std::move(*key));
  }
  if (keys.size() > before) return Status::ok_status();
  return make_error(ErrorCode::kInvalidArgument, "--api-key-file: {} has no key; one per line",
                    path);
}

Status resolve(ServeFlags& flags, const std::filesystem::path& model) {
  ServeOptions& serve = flags.serve;
  for (const std::string& alias : flags.aliases) {
    for (const std::string& name : split(alias, ',')) serve.names.push_back(name);
  }
  if (serve.names.empty()) {
    const std::filesystem::path plain = model.lexically_normal();
    serve.names.push_back((plain.has_filename() ? plain : plain.parent_path()).stem().string());
  }
  const auto add_keys = [&](const char* flag, const std::vector<std::string>& keys,
                            std::optional<Role> role) {
    for (const std::string& key : keys) {
      if (key.empty()) return make_error(ErrorCode::kInvalidArgument, "{} is empty", flag);
      serve.api_keys.push_back({.key = key, .tenant = {}, .role = role});
    }
    return Status::ok_status();
  };
  QUIPU_RETURN_IF_ERROR(add_keys("--api-key", flags.api_keys, std::nullopt));
  QUIPU_RETURN_IF_ERROR(add_keys("--operator-key", flags.operator_keys, Role::kOperator));
  if (!flags.api_key_file.empty())
    QUIPU_RETURN_IF_ERROR(add_keys_of_file(flags.api_key_file, serve.api_keys));
  for (std::string& host : serve.allowed_hosts) {
    std::transform(host.begin(), host.end(), host.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  }
  serve.http.port = static_cast<uint16_t>(flags.port);
  serve.http.body_bytes_max = flags.body_bytes_max;
  serve.http.header_timeout = to_ms(flags.read_timeout_s);
  serve.http.body_timeout = 6 * serve.http.header_timeout;
  serve.http.write_timeout = to_ms(flags.write_timeout_s);
  serve.http.ping_interval = to_ms(flags.ping_interval_s);
  serve.drain_timeout = to_ms(flags.drain_timeout_s);
  serve.request_timeout = to_ms(flags.request_timeout_s);
  serve.access_log = flags.output.quiet && flags.log == "-" ? "" : flags.log;
  return check_serve_options(serve);
}

void say_ready(const ServeFlags& flags, const LoadedModel& model, const std::string& address) {
  const ServeOptions& serve = flags.serve;
  if (flags.output.json) {
    print_json({{"address", address},
                {"model", serve.names.front()},
                {"kv_bytes", model.engine->kv().bytes()},
                {"token_limit", model.engine->scheduler().token_limit()},
                {"parallel", serve.parallel}});
  }
  print_note(flags.output, fmt::format("{} on http{}://{}{}", serve.names.front(),
                                       serve.http.key_file.empty() ? "" : "s", address,
                                       serve.api_keys.empty() ? "" : ", with API keys"));
  print_note(flags.output, model.kv_note);
  print_note(flags.output,
             fmt::format("up to {} requests at once and {} waiting, {} tokens each; Ctrl-C drains "
                         "and stops",
                         serve.parallel, serve.queue, model.engine->scheduler().token_limit()));
}

int serve_command(ServeFlags& flags) {
  const Result<std::filesystem::path> path = model_path_or_default(flags.model.model);
  if (!path.ok()) return report_error(path.status());
  flags.model.model = *path;
  if (const Status status = resolve(flags, *path); !status.ok()) return report_error(status);
  flags.model.sequences_max = flags.serve.parallel;
  flags.model.contexts_wanted = flags.serve.parallel + 1;
  Result<std::unique_ptr<LoadedModel>> loaded = load_for_command(flags.model, flags.output);
  if (!loaded.ok()) return report_error(loaded.status());
  const Status status = serve(**loaded, flags.serve, [&](const std::string& address) {
    say_ready(flags, **loaded, address);
  });
  if (!status.ok()) return report_error(status);
  print_note(flags.output, "stopped");
  return kExitOk;
}

void add_server_flags(CLI::App& command, ServeFlags& flags) {
  ServeOptions& serve = flags.serve;
  command.add_option("--host", serve.http.host, "Address to listen on; others need an --api-key")
      ->capture_default_str();
  command.add_option("--port", flags.port, "Port; 0: a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command.add_option("--parallel,--max-num-seqs", serve.parallel, "Requests computed at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  flags.model.decode_stretch_max = kDecodeStretch;
  command
      .add_option("--decode-stretch", flags.model.decode_stretch_max,
                  "How many times as long a step may take because of others' prompts; 0: any")
      ->check([](const std::string& text) {
        double value = 0;
        return CLI::detail::lexical_cast(text, value) && (value == 0 || (value >= 1 && value <= 1e6))
                   ? std::string()
                   : "must be 0, or from 1 to 1000000: " + text;
      })
      ->capture_default_str();
  command.add_option("--queue", serve.queue, "Requests that may wait; more are told 429")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  command
      .add_option("-a,--alias,--served-model-name", flags.aliases,
                  "Names of the model, separated by commas (default: the file's)")
      ->allow_extra_args(false);
  command.add_option("--api-key", flags.api_keys, "Key that opens the server; may be repeated")
      ->allow_extra_args(false);
  command
      .add_option("--operator-key", flags.operator_keys,
                  "Key that may see what all tenants do, /metrics too; may be repeated")
      ->allow_extra_args(false);
  command.add_option("--api-key-file", flags.api_key_file,
                     "Keys, one per line: KEY [tenant=NAME] [role=user|operator]");
  command.add_flag("--open-metrics", serve.open_metrics, "Answer /metrics without a key");
  command.add_option("--ssl-cert-file", serve.http.certificate_file,
                     "Certificate chain in PEM form, for HTTPS; read again on SIGHUP");
  command.add_option("--ssl-key-file", serve.http.key_file, "Its private key in PEM form");
  command.add_flag("--allow-open", serve.allow_open, "Let other machines use it without a key");
  command
      .add_option("--allow-host", serve.allowed_hosts,
                  "Host name to answer to beside localhost; may be repeated")
      ->allow_extra_args(false);
  command.add_option("--max-connections", serve.http.connections_max, "Open connections")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command.add_option_function<std::string>(
      "--max-body",
      [&flags](const std::string& text) {
        const Result<uint64_t> bytes = parse_bytes(text);
        if (!bytes.ok()) throw CLI::ValidationError("--max-body", bytes.status().message());
        flags.body_bytes_max = *bytes;
      },
      "Largest request body (default: 8MiB)");
  command
      .add_option("--read-timeout", flags.read_timeout_s,
                  "Seconds a client may take to send a header; six times that for a body")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  command
      .add_option("--timeout", flags.write_timeout_s, "Seconds a client may take to read 64 KiB")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  command
      .add_option("--request-timeout", flags.request_timeout_s,
                  "Seconds after which a request ends, waiting or running; 0: never")
      ->check(CLI::Range(0.0, 604800.0))
      ->capture_default_str();
  command
      .add_option("--kv-pin-share", serve.pin_share,
                  "Share of the KV blocks that pins (/v1/kv/pin) may hold; 0: no pins")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      .add_option("--sse-ping-interval", flags.ping_interval_s,
                  "Seconds of silence in a stream before a ping; 0: none")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  command
      .add_option("--drain-timeout", flags.drain_timeout_s,
                  "Seconds for running requests after SIGTERM or Ctrl-C")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  command.add_option("--log-jsonl", flags.log, "Log of requests: a file, or - for stderr")
      ->capture_default_str();
}

}  // namespace

void add_serve_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command =
      app.add_subcommand("serve", "Serve a model to OpenAI and llama.cpp clients over HTTP");
  add_server_flags(*command, *flags);
  add_model_flags(*command, flags->model);
  add_output_flags(*command, flags->output);
  add_environment_names(*command);
  command->callback([flags, &exit_code] { exit_code = serve_command(*flags); });
}

}  // namespace quipu
