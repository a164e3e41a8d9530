// Constraint: what an output may be, followed token by token. Compiled from a JSON schema, a
// regular expression, a grammar or a list of choices against the bytes of a tokenizer's vocabulary.
//
// Sources are untrusted: their size, the work of compiling and the work for each token are limited,
// and what of a schema cannot be enforced is refused with its place, not ignored.
// SOURCE: llguidance, through text/shim.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"
#include "text/tokenizer.h"

struct QuipuConstraint;  // text/shim/quipu_text.h
struct QuipuVocabulary;

namespace quipu {

enum class ConstraintKind {
  kJsonSchema,
  kRegex,   // of the whole output, in the syntax of Rust's regex crate
  kLark,    // llguidance's variant of Lark grammars; `start` is the whole output
  kGbnf,    // llama.cpp's grammars; `root` is the whole output
  kChoice,  // a JSON array of strings
  // Thinking, then an answer in a form of its own, or text with calls of tools (tool_format.h).
  kStructure,
};

struct ConstraintSource {
  ConstraintKind kind = ConstraintKind::kJsonSchema;
  std::string text;
};

// One output on its way. THREADS: thread-compatible; const functions may run at the same time.
class Constraint {
 public:
  // One at the same place, which shares nothing with this one.
  Result<Constraint> duplicate() const;

  // Sets bit i % 32 of words[i / 32] when token i may come next, and clears the others.
  // SHAPE: words: [ceil(vocabulary size / 32)] or more.
  // ERRORS: kResourceExhausted: a limit on the work for one token, or nothing can follow.
  Status allowed(std::span<uint32_t> words);

  // Goes on by one token. ERRORS: kResourceExhausted, as allowed().
  Status accept(TokenId token);

  // Appends the bytes that come next whatever is chosen, as far as they are certain; how tokens cut
  // them is open. A control token is 0xff and its id in brackets. ERRORS: kInternal.
  Status forced(std::string& bytes) const;

  // Nothing can follow.
  bool is_complete() const { return complete_; }
  // The output may end here. ERRORS: as allowed().
  Result<bool> may_end();

  // About what it took in memory when it was compiled. UNITS: bytes.
  uint64_t memory_bytes() const;

 private:
  friend class ConstraintCompiler;
  struct Free {
    void operator()(QuipuConstraint* handle) const;
  };
  explicit Constraint(QuipuConstraint* handle) : handle_(handle) {}

  std::unique_ptr<QuipuConstraint, Free> handle_;
  bool complete_ = false;
};

// THREADS: thread-safe.
class ConstraintCompiler {
 public:
  // OWNS: nothing; the tokenizer must outlive it.
  explicit ConstraintCompiler(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  ~ConstraintCompiler();
  ConstraintCompiler(const ConstraintCompiler&) = delete;
  ConstraintCompiler& operator=(const ConstraintCompiler&) = delete;

  // The first call takes longer: it arranges the vocabulary (0.5 s for 150,000 tokens).
  // ERRORS: kInvalidArgument (not JSON, a syntax error, nothing is allowed), kUnsupported (the
  // place and name of a keyword, format or reference), kResourceExhausted (a limit), kUnsupported
  // for a vocabulary without a token that ends a text.
  Result<Constraint> compile(const ConstraintSource& source);

 private:
  Status prepare();

  const Tokenizer& tokenizer_;
  std::mutex mutex_;                       // while vocabulary_ is made
  QuipuVocabulary* vocabulary_ = nullptr;  // OWNS: freed by the destructor
};

}  // namespace quipu
