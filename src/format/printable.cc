#include "format/printable.h"

#include "base/utf8.h"

namespace quipu {

std::string printable(std::string_view name) {
  constexpr size_t kShown = 100;
  std::string text = repair_utf8(name.substr(0, kShown));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return name.size() > kShown ? text + "..." : text;
}

}  // namespace quipu
