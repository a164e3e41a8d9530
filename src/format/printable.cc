#include "format/printable.h"

#include "base/utf8.h"

namespace quipu {

std::string printable(std::string_view name) {
  constexpr size_t kShown = 100;
  std::string text = repair_utf8(name.substr(0, kShown));
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F: to some terminals they are what ESC and a letter are.
    const bool is_c1 = c == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    i += is_c1 ? 1 : 0;
    shown += c < 0x20 || c == 0x7F || is_c1 ? '?' : text[i];
  }
  return name.size() > kShown ? shown + "..." : shown;
}

std::string escaped_bytes(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    const auto c = static_cast<unsigned char>(byte);
    if (c >= 0x20 && c < 0x7F && c != '\\') {
      text += byte;
    } else {
      text += {'\\', 'x', kDigits[c >> 4], kDigits[c & 15]};
    }
  }
  return text;
}

}  // namespace quipu
