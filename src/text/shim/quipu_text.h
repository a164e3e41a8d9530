/* The C interface of the text library (Rust crate quipu-text): tokenizers, chat templates and
 * constrained output.
 *
 * Conventions
 *  - Entries that can fail return 0 or a QUIPU_TEXT_* code, and then fill *error with a message.
 *    On failure the other outputs are untouched.
 *  - Nothing unwinds into the caller: panics become QUIPU_TEXT_INTERNAL.
 *  - Inputs are copied during the call. Buffers handed out are freed with quipu_buffer_free or
 *    quipu_ids_free; handles with their own free function.
 *  - Handles are immutable after creation: any number of threads may use one at the same time. Only
 *    a QuipuConstraint changes, by mask, accept and may_end: one thread at a time.
 */
#ifndef QUIPU_TEXT_SHIM_QUIPU_TEXT_H_
#define QUIPU_TEXT_SHIM_QUIPU_TEXT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  QUIPU_TEXT_OK = 0,
  QUIPU_TEXT_INVALID = 1,     /* outside data breaks its own rules */
  QUIPU_TEXT_UNSUPPORTED = 2, /* well-formed, but unknown here */
  QUIPU_TEXT_EXHAUSTED = 3,   /* a limit was reached */
  QUIPU_TEXT_INTERNAL = 4     /* a caught panic: a bug */
};

/* Kinds of tokens, with the numbers of tokenizer.ggml.token_type. */
enum {
  QUIPU_TOKEN_NONE = 0, /* no such id */
  QUIPU_TOKEN_NORMAL = 1,
  QUIPU_TOKEN_UNKNOWN = 2,
  QUIPU_TOKEN_CONTROL = 3,
  QUIPU_TOKEN_USER_DEFINED = 4,
  QUIPU_TOKEN_UNUSED = 5,
  QUIPU_TOKEN_BYTE = 6
};

/* What the source of a constraint is. */
enum {
  QUIPU_CONSTRAINT_JSON_SCHEMA = 0,
  QUIPU_CONSTRAINT_REGEX = 1,    /* of the whole output */
  QUIPU_CONSTRAINT_LARK = 2,     /* llguidance's variant of Lark */
  QUIPU_CONSTRAINT_GBNF = 3,     /* llama.cpp's grammars */
  QUIPU_CONSTRAINT_CHOICE = 4,   /* a JSON array of strings */
  QUIPU_CONSTRAINT_STRUCTURE = 5 /* parts, as JSON (structure.rs) */
};

typedef struct QuipuTokenizer QuipuTokenizer;
typedef struct QuipuVocabulary QuipuVocabulary;
typedef struct QuipuConstraint QuipuConstraint;
typedef struct QuipuTemplate QuipuTemplate;

/* Borrowed bytes. */
typedef struct {
  const uint8_t* data;
  size_t size;
} QuipuBytes;

/* Owned bytes: free with quipu_buffer_free. */
typedef struct {
  uint8_t* data;
  size_t size;
  size_t capacity;
} QuipuBuffer;

/* Owned token ids: free with quipu_ids_free. */
typedef struct {
  uint32_t* data;
  size_t size;
  size_t capacity;
} QuipuIds;

/* Borrowed strings in one run: string i is data[ends[i-1] .. ends[i]], the first from 0. */
typedef struct {
  const uint8_t* data;
  size_t size;
  const uint64_t* ends;
  size_t count;
} QuipuStrings;

/* A vocabulary as GGUF metadata has it. Ids: -1 for absent. Flags: -1 unknown, 0 no, 1 yes. */
typedef struct {
  QuipuBytes model; /* "llama", "gpt2", "t5" or "characters" */
  QuipuBytes pre;   /* pre-tokenizer name; empty means "default" */
  QuipuStrings tokens;
  QuipuStrings merges;
  const float* scores;
  size_t scores_count;
  const int32_t* kinds;
  size_t kinds_count;
  QuipuBytes charsmap; /* SentencePiece's precompiled normaliser, or empty */
  const int32_t* strip_after; /* ids of tokens that take the white space behind them along */
  size_t strip_after_count;
  int64_t bos;
  int64_t eos;
  int64_t unknown;
  int32_t add_bos;
  int32_t add_eos;
  int32_t add_space_prefix;
  int32_t remove_extra_whitespaces;
  int32_t byte_fallback; /* t5 only: unknown characters become byte tokens */
} QuipuSpec;

typedef struct {
  size_t vocabulary_size;
  int64_t bos; /* -1: none */
  int64_t eos;
  int64_t unknown;
  int32_t add_bos;
  int32_t add_eos;
  int32_t strips_leading_space; /* decoding drops one space at the start of a text */
} QuipuTokenizerInfo;

/* Call once before anything else: caught panics then print nothing. */
void quipu_text_init(void);

void quipu_buffer_free(QuipuBuffer buffer);
void quipu_ids_free(QuipuIds ids);

int32_t quipu_tokenizer_from_spec(const QuipuSpec* spec, QuipuTokenizer** out, QuipuBuffer* error);

/* From the bytes of a tokenizer.json. */
int32_t quipu_tokenizer_from_json(QuipuBytes json, QuipuTokenizer** out, QuipuBuffer* error);

void quipu_tokenizer_free(QuipuTokenizer* tokenizer);

QuipuTokenizerInfo quipu_tokenizer_info(const QuipuTokenizer* tokenizer);

/* Any bytes are accepted; what is not UTF-8 becomes byte tokens where the vocabulary has them. */
int32_t quipu_tokenizer_encode(const QuipuTokenizer* tokenizer, QuipuBytes text,
                               int32_t add_special, int32_t parse_special, QuipuIds* out,
                               QuipuBuffer* error);

/* The bytes of one token (they live as long as the tokenizer) and its kind. */
int32_t quipu_tokenizer_piece(const QuipuTokenizer* tokenizer, uint32_t id, QuipuBytes* bytes);

/* The first id whose piece is exactly `text`, or -1. */
int64_t quipu_tokenizer_find(const QuipuTokenizer* tokenizer, QuipuBytes text);

/* GGUF tokenizer metadata, as one JSON object. */
int32_t quipu_tokenizer_export(const QuipuTokenizer* tokenizer, QuipuBuffer* out,
                               QuipuBuffer* error);

int32_t quipu_template_compile(QuipuBytes source, QuipuTemplate** out, QuipuBuffer* error);

/* `context_json`: one object with the template's variables. strftime_now() shows the instant
 * now_unix_s in a zone that is utc_offset_s ahead of UTC. */
int32_t quipu_template_render(const QuipuTemplate* chat_template, QuipuBytes context_json,
                              int64_t now_unix_s, int32_t utc_offset_s, uint64_t fuel,
                              QuipuBuffer* out, QuipuBuffer* error);

void quipu_template_free(QuipuTemplate* chat_template);

/* What compiling constraints needs of a tokenizer, which may end before it. `ends`: the ids that
 * end a text. */
int32_t quipu_vocabulary_create(const QuipuTokenizer* tokenizer, const uint32_t* ends,
                                size_t ends_count, QuipuVocabulary** out, QuipuBuffer* error);

void quipu_vocabulary_free(QuipuVocabulary* vocabulary);

/* Unsupported and invalid sources are told apart by the code; messages begin with the place. */
int32_t quipu_constraint_compile(const QuipuVocabulary* vocabulary, int32_t kind, QuipuBytes source,
                                 QuipuConstraint** out, QuipuBuffer* error);

/* One at the same place that shares nothing with it. */
int32_t quipu_constraint_duplicate(const QuipuConstraint* constraint, QuipuConstraint** out,
                                   QuipuBuffer* error);

/* Sets bit i % 32 of words[i / 32] when token i may come next, and clears the others. */
int32_t quipu_constraint_mask(QuipuConstraint* constraint, uint32_t* words, size_t words_count,
                              QuipuBuffer* error);

/* Goes on by one token; *complete becomes 1 when nothing can follow, else 0. */
int32_t quipu_constraint_accept(QuipuConstraint* constraint, uint32_t token, int32_t* complete,
                                QuipuBuffer* error);

/* *may becomes 1 when the output may end here, else 0. */
int32_t quipu_constraint_may_end(QuipuConstraint* constraint, int32_t* may, QuipuBuffer* error);

/* The bytes of the next few tokens of every output from here on, or none; a control token is 0xff and
 * its id in brackets. Nothing changes. */
int32_t quipu_constraint_forced(const QuipuConstraint* constraint, QuipuBuffer* out,
                                QuipuBuffer* error);

/* About how many bytes of memory it took when it was compiled. */
size_t quipu_constraint_bytes(const QuipuConstraint* constraint);

void quipu_constraint_free(QuipuConstraint* constraint);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* QUIPU_TEXT_SHIM_QUIPU_TEXT_H_ */
