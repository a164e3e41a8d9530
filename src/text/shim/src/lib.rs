//! Tokenizers, chat templates and constrained output for quipu, behind the C interface of quipu_text.h.
//!
//! Every entry catches panics and turns every failure into a code and a message; nothing unwinds
//! into C++. Data given in is copied; data handed out lives in a buffer that the caller frees.

mod bpe;
mod bytes;
mod characters;
mod charsmap;
mod constraint;
mod export;
mod failure;
mod ffi;
mod gbnf;
mod hf;
mod merge;
mod partition;
mod pieces;
mod pre;
mod schema;
mod spec;
mod spm;
mod strftime;
mod structure;
mod template;
mod template_json;
mod tokenizer;
mod vocabulary;
