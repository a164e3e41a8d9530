//! A tokenizer from Hugging Face's `tokenizer.json`, run by the reference implementation.

use std::collections::HashMap;
use std::sync::RwLock;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::bytes::{byte_token, char_of_byte, decode_printable, utf8_runs, Run};
use crate::failure::{Failure, Outcome};
use crate::pieces::{check_count, Pieces, BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED};

/// How tokens become bytes again, read from the `decoder` part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decoding {
    ByteLevel,
    SentencePiece { strips_leading_space: bool },
}

pub struct JsonTokenizer {
    /// Whether special tokens in the text are parsed is a setting of the crate's tokenizer, so the
    /// lock is taken for writing only when a call wants the other setting.
    tokenizer: RwLock<Tokenizer>,
    pub pieces: Pieces,
    pub strips_leading_space: bool,
    /// What encode() puts around every text when asked to add special tokens.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
    byte_level: bool,
    byte_ids: [Option<u32>; 256],
}

impl JsonTokenizer {
    pub fn new(bytes: &[u8]) -> Outcome<Self> {
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|error| Failure::invalid(format!("tokenizer.json: {error}")))?;
        // Settings for training batches have no place here.
        tokenizer
            .with_truncation(None)
            .map_err(|error| Failure::invalid(format!("tokenizer.json: {error}")))?;
        tokenizer.with_padding(None);
        let decoder = serde_json::to_value(tokenizer.get_decoder())
            .map_err(|error| Failure::internal(error.to_string()))?;
        let decoding = read_decoding(&decoder)?;
        let (pieces, byte_ids) = make_pieces(&tokenizer, decoding)?;
        let (prefix, suffix) = surroundings(&tokenizer)?;
        Ok(JsonTokenizer {
            tokenizer: RwLock::new(tokenizer),
            pieces,
            strips_leading_space: decoding
                == Decoding::SentencePiece { strips_leading_space: true },
            prefix,
            suffix,
            byte_level: decoding == Decoding::ByteLevel,
            byte_ids,
        })
    }

    pub fn encode(&self, text: &[u8], add_special: bool, parse_special: bool) -> Outcome<Vec<u32>> {
        if let Ok(text) = std::str::from_utf8(text) {
            return self.encode_text(text, add_special, parse_special);
        }
        // Bytes that are not UTF-8 become their own byte tokens where the vocabulary has them.
        let mut out = if add_special { self.prefix.clone() } else { Vec::new() };
        if self.byte_ids.iter().all(Option::is_some) && !self.strips_leading_space {
            for run in utf8_runs(text) {
                match run {
                    Run::Text(text) => out.extend(self.encode_text(text, false, parse_special)?),
                    Run::Invalid(byte) => out.extend(self.byte_ids[byte as usize]),
                }
            }
        } else {
            let repaired = String::from_utf8_lossy(text);
            out.extend(self.encode_text(&repaired, false, parse_special)?);
        }
        if add_special {
            out.extend_from_slice(&self.suffix);
        }
        Ok(out)
    }

    fn encode_text(&self, text: &str, add_special: bool, parse_special: bool) -> Outcome<Vec<u32>> {
        let poisoned = |_| Failure::internal("an earlier call failed inside the tokenizer");
        let run = |tokenizer: &Tokenizer| {
            let encoding = tokenizer
                .encode_fast(text, add_special)
                .map_err(|error| Failure::invalid(format!("encode: {error}")))?;
            Ok(encoding.get_ids().to_vec())
        };
        {
            let tokenizer = self.tokenizer.read().map_err(|_| poisoned(()))?;
            if tokenizer.get_encode_special_tokens() != parse_special {
                return run(&tokenizer);
            }
        }
        let mut tokenizer = self.tokenizer.write().map_err(|_| poisoned(()))?;
        tokenizer.set_encode_special_tokens(!parse_special);
        run(&tokenizer)
    }

    pub fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    /// The whole tokenizer as JSON, for conversion to GGUF metadata.
    pub fn to_json(&self) -> Outcome<Value> {
        let tokenizer =
            self.tokenizer.read().map_err(|_| Failure::internal("the tokenizer failed earlier"))?;
        serde_json::to_value(&*tokenizer).map_err(|error| Failure::internal(error.to_string()))
    }

    pub fn token_text(&self, id: u32) -> Option<String> {
        self.tokenizer.read().ok()?.id_to_token(id)
    }
}

fn flatten<'a>(decoder: &'a Value, out: &mut Vec<&'a Value>) {
    match decoder.get("decoders").and_then(Value::as_array) {
        Some(inner) => inner.iter().for_each(|part| flatten(part, out)),
        None => out.push(decoder),
    }
}

fn read_decoding(decoder: &Value) -> Outcome<Decoding> {
    let mut parts = Vec::new();
    flatten(decoder, &mut parts);
    let mut sentencepiece = false;
    let mut strips_leading_space = false;
    for part in parts {
        match part.get("type").and_then(Value::as_str).unwrap_or("none") {
            "ByteLevel" => return Ok(Decoding::ByteLevel),
            "Metaspace" => {
                sentencepiece = true;
                let scheme = part.get("prepend_scheme").and_then(Value::as_str);
                strips_leading_space |= scheme != Some("never");
            }
            "Replace" | "ByteFallback" => sentencepiece = true,
            "Strip" => {
                let start = part.get("start").and_then(Value::as_u64).unwrap_or(0);
                strips_leading_space |= start > 0;
            }
            "Fuse" => {}
            other => return Err(Failure::unsupported(format!(
                "tokenizer.json: decoder '{other}'; known: ByteLevel, Metaspace, and Sequence of \
                     Replace, ByteFallback, Fuse, Strip"
            ))),
        }
    }
    if !sentencepiece {
        return Err(Failure::unsupported("tokenizer.json has no decoder"));
    }
    Ok(Decoding::SentencePiece { strips_leading_space })
}

fn make_pieces(tokenizer: &Tokenizer, decoding: Decoding) -> Outcome<(Pieces, [Option<u32>; 256])> {
    let vocabulary = tokenizer.get_vocab(true);
    let count = vocabulary.values().map(|&id| id as usize + 1).max().unwrap_or(0);
    check_count(count)?;
    let mut tokens: Vec<Option<&str>> = vec![None; count];
    for (token, &id) in &vocabulary {
        tokens[id as usize] = Some(token);
    }
    let added: HashMap<u32, bool> =
        tokenizer.get_added_tokens_decoder().iter().map(|(&id, t)| (id, t.special)).collect();
    // Byte-level vocabularies know every byte; some still name their end token "unknown".
    let unknown = if decoding == Decoding::ByteLevel { None } else { unknown_token(tokenizer) };
    let mut pieces = Pieces::default();
    let mut byte_ids = [None; 256];
    for (id, token) in tokens.iter().enumerate() {
        let Some(token) = token else {
            pieces.push(b"", crate::pieces::UNUSED);
            continue;
        };
        if let Some(&special) = added.get(&(id as u32)) {
            let is_unknown = unknown.as_deref() == Some(token);
            let kind = match (special, is_unknown) {
                (true, true) => UNKNOWN,
                (true, false) => CONTROL,
                _ => USER_DEFINED,
            };
            pieces.push(token.as_bytes(), kind);
        } else if unknown.as_deref() == Some(token) {
            pieces.push(token.as_bytes(), UNKNOWN);
        } else if decoding == Decoding::ByteLevel {
            match decode_printable(token) {
                Some(bytes) => pieces.push(&bytes, NORMAL),
                None => pieces.push(token.as_bytes(), NORMAL),
            }
        } else if let Some(byte) = byte_token(token) {
            byte_ids[byte as usize] = Some(id as u32);
            pieces.push(&[byte], BYTE);
        } else {
            pieces.push(token.replace(crate::spm::SPACE, " ").as_bytes(), NORMAL);
        }
    }
    if decoding == Decoding::ByteLevel {
        for (byte, id) in byte_ids.iter_mut().enumerate() {
            *id = vocabulary.get(&char_of_byte(byte as u8).to_string()).copied();
        }
    }
    Ok((pieces, byte_ids))
}

fn unknown_token(tokenizer: &Tokenizer) -> Option<String> {
    use tokenizers::models::ModelWrapper;
    match tokenizer.get_model() {
        ModelWrapper::BPE(bpe) => bpe.get_unk_token().clone(),
        ModelWrapper::Unigram(unigram) => {
            // The id is not public; the serialised form has it.
            let value = serde_json::to_value(unigram).ok()?;
            let id = value.get("unk_id")?.as_u64()?;
            tokenizer.id_to_token(u32::try_from(id).ok()?)
        }
        _ => None,
    }
}

/// The special tokens that the post-processor puts before and after a text.
fn surroundings(tokenizer: &Tokenizer) -> Outcome<(Vec<u32>, Vec<u32>)> {
    let ids = |special: bool| -> Outcome<Vec<u32>> {
        let encoding = tokenizer
            .encode_fast("a", special)
            .map_err(|error| Failure::invalid(format!("tokenizer.json: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    };
    let (plain, full) = (ids(false)?, ids(true)?);
    let extra = full.len().saturating_sub(plain.len());
    let at = (0..=extra).find(|&i| full[i..].starts_with(&plain)).unwrap_or(0);
    let end = (at + plain.len()).min(full.len());
    Ok((full[..at].to_vec(), full[end..].to_vec()))
}
