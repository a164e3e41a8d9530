#include "server/request_id.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

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
  std::random_device draw;
  return fmt::format("req-{:08x}{:08x}", draw(), draw());
}

}  // namespace quipu
