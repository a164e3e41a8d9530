// Result<T>: a value, or the Error that says why there is none. No exception leaves the library.
// THREADS: plain values.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include <quipu/export.h>

namespace quipu::v1 {

enum class ErrorCode {
  kInvalidArgument = 1,  // an option or a request is wrong
  kNotFound,             // a file is absent
  kCorruptData,          // a file breaks its format
  kUnsupported,          // well-formed, but something quipu does not do
  kResourceExhausted,    // memory, cache, context or queue is used up
  kIo,                   // the operating system refused
  kCancelled,            // stopped before it began
  kInternal,             // something failed that should not
};

// The code's name, such as "invalid_argument". OWNS: static text.
QUIPU_API std::string_view error_code_name(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;  // what, where, expected, found, and what to do
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // REQUIRES: not ok().
  const Error& error() const {
    if (ok()) fail("Result::error() of a value");
    return *std::get_if<1>(&state_);
  }

  // REQUIRES (all of these): ok(); otherwise the program ends with the error's message.
  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Result*>(this)->checked(); }
  T&& value() && { return std::move(checked()); }
  T& operator*() & { return checked(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(checked()); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &value(); }

 private:
  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "quipu: %s\n", what);
    std::abort();
  }
  T& checked() {
    if (!ok()) fail(std::get_if<1>(&state_)->message.c_str());
    return *std::get_if<0>(&state_);
  }

  std::variant<T, Error> state_;
};

// What an operation without a value gives back.
struct Done {};

}  // namespace quipu::v1
