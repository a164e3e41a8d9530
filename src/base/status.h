// Status and Result<T>: how an operation that can fail for reasons outside the program says so.
//
// Three kinds of trouble are never mixed (docs/CONTRIBUTING.md):
//   1. operating errors (bad file, bad request, disk full)  -> Status / Result<T>, with a message
//      that says what, where, expected, found, and what the user can do;
//   2. expected outcomes (pool full, no hit)                -> std::optional or a named enum;
//   3. programmer errors                                    -> QUIPU_CHECK (base/check.h).
//
// THREADS: plain values, thread-compatible.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace quipu {

enum class ErrorCode {
  kOk,
  kInvalidArgument,    // the caller's flag or request is wrong
  kNotFound,           // a file, tensor or key is absent
  kCorruptData,        // outside bytes break their format
  kUnsupported,        // well-formed, but something quipu does not do
  kResourceExhausted,  // memory, disk, cache or context is used up
  kIo,                 // the operating system refused
  kCancelled,          // the user stopped it
  kInternal,           // a library failed in a way that should not happen
};

// The code's name in snake case, for JSON output and logs.
std::string_view error_code_name(ErrorCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {
    QUIPU_CHECK(code != ErrorCode::kOk, "an error needs an error code");
  }

  static Status ok_status() { return Status(); }

  bool ok() const { return code_ == ErrorCode::kOk; }
  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same error with `context: ` put before its message.
  Status with_context(std::string_view context) const {
    return ok() ? *this : Status(code_, fmt::format("{}: {}", context, message_));
  }

 private:
  ErrorCode code_ = ErrorCode::kOk;
  std::string message_;
};

template <typename... Args>
Status make_error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {  // NOLINT
    QUIPU_CHECK(!status_.ok(), "a Result without a value needs an error");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  // REQUIRES: ok().
  T& value() & {
    QUIPU_CHECK(ok(), "{}", status_.message());
    return *value_;
  }
  const T& value() const& {
    QUIPU_CHECK(ok(), "{}", status_.message());
    return *value_;
  }
  T&& value() && {
    QUIPU_CHECK(ok(), "{}", status_.message());
    return std::move(*value_);
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace quipu

#define QUIPU_CONCAT_INNER(a, b) a##b
#define QUIPU_CONCAT(a, b) QUIPU_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` (a Status) is an error.
#define QUIPU_RETURN_IF_ERROR(expr)                \
  do {                                             \
    ::quipu::Status quipu_status_ = (expr);        \
    if (!quipu_status_.ok()) return quipu_status_; \
  } while (false)

// `QUIPU_ASSIGN_OR_RETURN(auto x, f());` binds the value of a Result or returns its error.
#define QUIPU_ASSIGN_OR_RETURN(decl, expr) \
  QUIPU_ASSIGN_OR_RETURN_INNER(QUIPU_CONCAT(quipu_result_, __LINE__), decl, expr)
#define QUIPU_ASSIGN_OR_RETURN_INNER(result, decl, expr) \
  auto result = (expr);                                  \
  if (!result.ok()) return result.status();              \
  decl = std::move(result).value()
