// What the commands share of the terminal: errors, progress, JSON, Ctrl-C.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace quipu {

// Exit codes: 0 done; 1 the machine failed (memory, disk); 2 the input is wrong; 130 interrupted.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitBadInput = 2;
inline constexpr int kExitInterrupted = 130;

// How much a command says, and in which form.
struct OutputOptions {
  bool json = false;   // one JSON object on stdout at the end
  bool quiet = false;  // nothing on stderr but errors
};

// Prints `quipu: error: ...` to stderr and returns the exit code for it.
int report_error(const Status& status);

bool stdout_is_terminal();
bool stderr_is_terminal();
bool stdin_is_terminal();

// Writes and flushes; a closed pipe ends the program quietly, as other tools do.
void print_out(std::string_view text);
// A note for people on stderr; nothing when quiet.
void print_note(const OutputOptions& output, std::string_view text);

// One JSON object on a line of stdout. Invalid UTF-8 is replaced, never thrown about.
void print_json(const nlohmann::ordered_json& object);

// Shows loading progress: a line that rewrites itself on a terminal, nothing elsewhere.
class ProgressLine {
 public:
  ProgressLine(const OutputOptions& output, std::string label);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void update(uint64_t done, uint64_t total);

 private:
  bool active_;
  std::string label_;
  int last_percent_ = -1;
};

// Counts Ctrl-C while it lives: the first asks the command to stop, the second ends the program.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;
  void reset();
};

}  // namespace quipu
