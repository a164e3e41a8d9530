// Test support: the tokenizer metadata of a GGUF file as a TokenizerSpec. format/ has the real reader;
// it has the same rank as text/, so tests here read the few keys they need themselves.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/file.h"
#include "text/tokenizer_spec.h"

namespace quipu::test {

class GgufMetadata {
 public:
  explicit GgufMetadata(std::string bytes) : bytes_(std::move(bytes)) {}

  TokenizerSpec read() {
    at_ = 4;
    const auto version = take<uint32_t>();
    narrow_ = version == 1;
    size();  // tensors
    const uint64_t pairs = size();
    for (uint64_t i = 0; i < pairs; ++i) {
      const std::string key = string();
      value(key, take<uint32_t>());
    }
    return std::move(spec_);
  }

 private:
  template <typename T>
  T take() {
    T value;
    if (at_ + sizeof(T) > bytes_.size()) throw std::runtime_error("truncated GGUF");
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  uint64_t size() { return narrow_ ? take<uint32_t>() : take<uint64_t>(); }
  std::string string() {
    const uint64_t length = size();
    std::string text = bytes_.substr(at_, length);
    at_ += length;
    return text;
  }

  void value(const std::string& key, uint32_t type) {
    if (type == 9) {
      const auto element = take<uint32_t>();
      const uint64_t count = size();
      for (uint64_t i = 0; i < count; ++i) value(key, element);
      return;
    }
    if (type == 8) {
      set_text(key, string());
      return;
    }
    if (type == 6) {
      const auto number = take<float>();
      if (key == "tokenizer.ggml.scores") spec_.scores.push_back(number);
      return;
    }
    static constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    int64_t number = 0;
    std::memcpy(&number, bytes_.data() + at_, kSizes[type]);
    at_ += kSizes[type];
    set_number(key, number);
  }

  void set_text(const std::string& key, std::string text) {
    if (key == "tokenizer.ggml.model") spec_.model = text;
    if (key == "tokenizer.ggml.pre") spec_.pre = text;
    if (key == "tokenizer.chat_template") spec_.chat_template = text;
    if (key == "tokenizer.ggml.tokens") spec_.tokens.push_back(std::move(text));
    else if (key == "tokenizer.ggml.merges") spec_.merges.push_back(std::move(text));
  }

  void set_number(const std::string& key, int64_t number) {
    const auto id = static_cast<TokenId>(number);
    if (key == "tokenizer.ggml.token_type") spec_.token_types.push_back(id);
    if (key == "tokenizer.ggml.bos_token_id") spec_.bos = id;
    if (key == "tokenizer.ggml.eos_token_id") spec_.eos = id;
    if (key == "tokenizer.ggml.unknown_token_id") spec_.unknown = id;
    if (key == "tokenizer.ggml.padding_token_id") spec_.padding = id;
    if (key == "tokenizer.ggml.add_bos_token") spec_.add_bos = number != 0;
    if (key == "tokenizer.ggml.add_eos_token") spec_.add_eos = number != 0;
    if (key == "tokenizer.ggml.add_space_prefix") spec_.add_space_prefix = number != 0;
  }

  std::string bytes_;
  size_t at_ = 0;
  bool narrow_ = false;
  TokenizerSpec spec_;
};

// Throws on a missing or truncated file: tests only.
inline TokenizerSpec read_gguf_spec(const std::string& path) {
  Result<std::string> bytes = read_file(path, uint64_t{1} << 30);
  if (!bytes.ok()) throw std::runtime_error(bytes.status().message());
  return GgufMetadata(std::move(bytes).value()).read();
}

}  // namespace quipu::test
