#include "cli/console.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "base/units.h"

namespace quipu {

int report_error(const Status& status) {
  std::fprintf(stderr, "quipu: error: %s\n", status.message().c_str());
  switch (status.code()) {
    case ErrorCode::kOk: return kExitOk;
    case ErrorCode::kCancelled: return kExitInterrupted;
    case ErrorCode::kIo:
    case ErrorCode::kInternal: return kExitFailure;
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kNotFound:
    case ErrorCode::kCorruptData:
    case ErrorCode::kUnsupported:
    case ErrorCode::kResourceExhausted: return kExitBadInput;
  }
  return kExitFailure;
}

bool stdout_is_terminal() { return isatty(STDOUT_FILENO) == 1; }
bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }
bool stdin_is_terminal() { return isatty(STDIN_FILENO) == 1; }

void print_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    std::_Exit(kExitFailure);  // nobody reads any more, or the disk is full
  }
}

void print_note(const OutputOptions& output, std::string_view text) {
  if (output.quiet) return;
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fputc('\n', stderr);
}

void print_json(const nlohmann::ordered_json& object) {
  print_out(object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

ProgressLine::ProgressLine(const OutputOptions& output, std::string label)
    : active_(!output.quiet && stderr_is_terminal()), label_(std::move(label)) {}

void ProgressLine::update(uint64_t done, uint64_t total) {
  if (!active_ || total == 0) return;
  const int percent = static_cast<int>(done * 100 / total);
  if (percent == last_percent_) return;
  last_percent_ = percent;
  std::fprintf(stderr, "\r%s %3d %% of %s", label_.c_str(), percent, format_bytes(total).c_str());
  std::fflush(stderr);
}

ProgressLine::~ProgressLine() {
  if (last_percent_ >= 0) std::fputs("\r\033[K", stderr);
}

namespace {

std::atomic<int> interrupts{0};

void on_interrupt(int) {
  if (interrupts.fetch_add(1) > 0) std::_Exit(kExitInterrupted);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupts = 0;
  struct sigaction action{};
  action.sa_handler =
      on_interrupt;  // no SA_RESTART: a blocking read returns, so the prompt can end
  sigaction(SIGINT, &action, nullptr);
}

InterruptGuard::~InterruptGuard() { std::signal(SIGINT, SIG_DFL); }

bool InterruptGuard::interrupted() const { return interrupts > 0; }
void InterruptGuard::reset() { interrupts = 0; }

}  // namespace quipu
