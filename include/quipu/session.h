// Session: a text that grows: what was appended, and what the model wrote after it.
//
// A session holds tokens, not memory of the cache: what it computed stays in the cache while there
// is room, and is found again, so that going on costs the new tokens only. A fork shares every
// block with its origin. What was evicted is computed again, to the same bits. THREADS:
// thread-compatible; different sessions from different threads.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <quipu/export.h>
#include <quipu/generation.h>
#include <quipu/model.h>
#include <quipu/result.h>

namespace quipu::v1 {

class QUIPU_API Session {
 public:
  // The first text gets what the model puts before a text. ERRORS: kUnsupported when the model has
  // no vocabulary.
  Result<Done> append(std::string_view text);
  void append_tokens(std::span<const TokenId> tokens);

  // Writes on, and keeps what was written. After an error, and when cancelled before it began, the
  // session is as it was. ERRORS: as Model::generate(); kInvalidArgument when the session is empty.
  Result<GenerationResult> generate(const GenerationOptions& options = {},
                                    const TextCallback& on_text = {});

  // Another session with the same beginning.
  Session fork() const { return *this; }

  // Forgets the tokens from position `count` on; nothing happens when there are fewer.
  // UNITS: tokens.
  void truncate(std::int64_t count);

  const std::vector<TokenId>& tokens() const { return tokens_; }

 private:
  friend class Model;
  Session(Model model, std::string cache_salt);

  Model model_;
  std::string cache_salt_;
  std::vector<TokenId> tokens_;
};

}  // namespace quipu::v1
