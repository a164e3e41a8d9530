#include "format/file_guess.h"

#include <algorithm>
#include <cctype>
#include <cstdint>

namespace quipu {

namespace {

struct Beginning {
  std::string_view bytes;
  std::string_view meaning;
};

constexpr std::string_view kUnpack = "a compressed file; unpack it first";
constexpr std::string_view kOldGgml =
    "a GGML file from before GGUF (2023), which quipu does not read; get the model as GGUF";
constexpr std::string_view kWebPage =
    "a web page, perhaps a download that wanted a login or another link; get the file itself";

// SOURCE: RFC 1952 (gzip), RFC 8878 (zstd), the xz, bzip2 and ZIP formats, the Git LFS
// specification, llama.cpp's formats before GGUF.
constexpr Beginning kBeginnings[] = {
    {"\x1f\x8b", kUnpack},
    {"\x28\xb5\x2f\xfd", kUnpack},
    {std::string_view("\xfd"
                      "7zXZ\0",
                      6),
     kUnpack},
    {"BZh", kUnpack},
    {"7z\xbc\xaf\x27\x1c", kUnpack},
    {"PK\x03\x04", "a ZIP archive or a PyTorch checkpoint; unpack it, or get the model as GGUF"},
    {"\x80\x02", "a pickled PyTorch checkpoint, which quipu does not read; get the model as GGUF"},
    {"version https://git-lfs.github.com/spec/",
     "a Git LFS pointer, not the file it stands for; fetch that with `git lfs pull`"},
    {"lmgg", kOldGgml},
    {"fmgg", kOldGgml},
    {"tjgg", kOldGgml},
    {"\x7f"
     "ELF",
     "a program"},
    {"{", "JSON; of a Hugging Face model give the directory"},
};

bool begins_like_web_page(std::string_view head) {
  std::string text(head.substr(std::min(head.find_first_not_of(" \t\r\n"), head.size())));
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml");
}

// A length of eight bytes, and the JSON object that has it.
bool begins_like_safetensors(std::string_view head) {
  constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the format's own limit
  if (head.size() < 10 || head[8] != '{' || (head[9] != '"' && head[9] != '}')) return false;
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(head[i]);
  return length >= 2 && length <= kHeaderBytesMax;
}

}  // namespace

std::string file_guess(std::string_view head) {
  const auto says = [](std::string_view meaning) {
    return "; it seems to be " + std::string(meaning);
  };
  if (begins_like_safetensors(head)) {
    return says(
        "a safetensors file of a Hugging Face model; give the directory that holds it and "
        "config.json");
  }
  if (begins_like_web_page(head)) return says(kWebPage);
  for (const Beginning& beginning : kBeginnings) {
    if (head.starts_with(beginning.bytes)) return says(beginning.meaning);
  }
  const bool all_zero = !head.empty() && head.find_first_not_of('\0') == std::string_view::npos;
  return all_zero ? says(
                        "a file whose beginning was never written, such as a download that was "
                        "cut off; get it again")
                  : std::string();
}

}  // namespace quipu
