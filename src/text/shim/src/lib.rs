//! Tokenizers and chat templates for quipu, behind the C interface of quipu_text.h.
//!
//! Every entry catches panics and turns every failure into a code and a message; nothing unwinds
//! into C++. Data given in is copied; data handed out lives in a buffer that the caller frees.

mod bpe;
mod bytes;
mod characters;
mod charsmap;
mod export;
mod failure;
mod ffi;
mod hf;
mod merge;
mod partition;
mod pieces;
mod pre;
mod spec;
mod spm;
mod strftime;
mod template;
mod template_json;
mod tokenizer;
