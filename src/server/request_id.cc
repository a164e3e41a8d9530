#include "server/request_id.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>

#include "base/check.h"

namespace quipu {

namespace {

bool is_plain(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
         c == '_' || c == '-';
}

}  // namespace

std::string RequestIds::next(std::string_view wanted) {
  if (!wanted.empty() && wanted.size() <= 64 && std::all_of(wanted.begin(), wanted.end(), is_plain))
    return std::string(wanted);
  if (left_ == 0) {
    // Never fewer for at most 256 bytes. SOURCE: getrandom(2).
    QUIPU_CHECK(getrandom(drawn_.data(), sizeof drawn_, 0) == sizeof drawn_,
                "the system gave no random numbers");
    left_ = drawn_.size();
  }
  return fmt::format("req-{:016x}", drawn_[--left_]);
}

}  // namespace quipu
