// QUIPU_CHECK and QUIPU_DCHECK: programmer errors stop the program with a message, never user
// input.
//
// QUIPU_CHECK stays in release builds; use it at module boundaries.
// QUIPU_DCHECK is for loops; it vanishes when NDEBUG is defined (its condition is not evaluated).
#pragma once

#include <fmt/format.h>

#include <string>

namespace quipu {

// Prints `file:line: check failed: condition: message` to stderr and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& message);

}  // namespace quipu

#define QUIPU_CHECK(condition, ...)                                                      \
  do {                                                                                   \
    if (!(condition)) [[unlikely]]                                                       \
      ::quipu::check_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define QUIPU_DCHECK(condition, ...)                \
  do {                                              \
    if (false) QUIPU_CHECK(condition, __VA_ARGS__); \
  } while (false)
#else
#define QUIPU_DCHECK(condition, ...) QUIPU_CHECK(condition, __VA_ARGS__)
#endif
